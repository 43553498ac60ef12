// What stands at the other end of standard error: a person's terminal, or a file or pipe.
#pragma once

namespace tandem::server {

struct Terminal {
  bool interactive = false;  // lines may be redrawn
  bool utf8 = false;
  int columns = 80;
};

// A terminal that calls itself "dumb" counts as a file.
Terminal LookAtTerminal(int descriptor);

}  // namespace tandem::server
