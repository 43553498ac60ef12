// What stands at the other end of standard error: a person's terminal, or a file or pipe.
#pragma once

#include "server/config/resolve.h"

namespace tandem::server {

struct Terminal {
  bool interactive = false;  // lines may be redrawn
  bool utf8 = false;
  bool colors = false;  // and these may be coloured: NO_COLOR is not set
  int columns = 80;
};

// A terminal that calls itself "dumb" counts as a file. LC_ALL, LC_CTYPE or LANG tell its encoding.
Terminal LookAtTerminal(int descriptor, const Environment& environment);

}  // namespace tandem::server
