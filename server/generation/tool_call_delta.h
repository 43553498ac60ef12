// A tool call as it is told to the client.
#pragma once

#include <string>
#include <string_view>

namespace tandem::server {

struct ToolCallDelta {
  int call_index = 0;  // of the choice, from 0
  std::string id;
  std::string name;
  std::string arguments;  // the whole JSON object: a call is told once it is complete
};

// "call_" and 16 hex digits. The same for the same call of the same request, and hardly ever the
// same for two others.
std::string ToolCallId(std::string_view request_id, int choice, int call_index);

}  // namespace tandem::server
