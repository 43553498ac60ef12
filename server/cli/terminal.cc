#include "server/cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <string>

namespace tandem::server {
namespace {

std::string Variable(const Environment& environment, const std::string& name) {
  const auto found = environment.find(name);
  return found == environment.end() ? std::string() : found->second;
}

bool IsUtf8Locale(const Environment& environment) {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {  // the first that is set decides
    const std::string locale = Variable(environment, name);
    if (locale.empty()) continue;
    return locale.find("UTF-8") != locale.npos || locale.find("utf8") != locale.npos;
  }
  return false;
}

}  // namespace

Terminal LookAtTerminal(int descriptor, const Environment& environment) {
  Terminal terminal;
  terminal.interactive = isatty(descriptor) == 1 && Variable(environment, "TERM") != "dumb";
  terminal.colors = terminal.interactive && Variable(environment, "NO_COLOR").empty();
  terminal.utf8 = IsUtf8Locale(environment);
  winsize size = {};
  if (ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) terminal.columns = size.ws_col;
  return terminal;
}

}  // namespace tandem::server
