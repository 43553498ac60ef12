# Writes OUTPUT with version and commit, only when that changes. Run at every build:
#   cmake -D SOURCE=... -D OUTPUT=... -D VERSION=... -D COMPILER=... -D BUILD_TYPE=... -P build_info.cmake
execute_process(COMMAND git -C "${SOURCE}" describe --always --dirty --abbrev=12 --exclude=*
  OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed OR commit STREQUAL "")
  set(commit "unknown")
endif()
set(text "#pragma once
#define TANDEM_VERSION \"${VERSION}\"
#define TANDEM_GIT_COMMIT \"${commit}\"
#define TANDEM_COMPILER \"${COMPILER}\"
#define TANDEM_BUILD_TYPE \"${BUILD_TYPE}\"
")
set(old "")
if(EXISTS "${OUTPUT}")
  file(READ "${OUTPUT}" old)
endif()
if(NOT old STREQUAL text)
  file(WRITE "${OUTPUT}" "${text}")
endif()
