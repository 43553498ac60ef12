// A whole benchmark, and the file it is kept in: JSON with every sample, so that two of them can be
// compared and drawn later.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/records.h"
#include "bench/summary.h"

namespace tandem::bench {

// What has to be known to repeat it.
struct ReportFacts {
  std::string command_line;
  std::string version;  // of this program
  std::string commit;
  std::string date;     // UTC, RFC 3339
  std::string cpu;      // of the machine this program ran on
  std::string address;  // of the server
  std::string server_version;
  std::string server_commit;
  std::string server_build;
  std::string device;
  std::string model;
  std::string model_revision;
  std::string weight_format;
  std::string kv_format;
  std::string workload;  // one line: lengths, seed, ...

  bool operator==(const ReportFacts&) const = default;
};

struct Report {
  ReportFacts facts;
  GoodputLimits goodput;
  std::vector<RunResult> runs;

  bool operator==(const Report&) const = default;
};

// One line, with every request.
std::string SavedText(const Report& report);
// What SavedText wrote.
//   errors  kInvalidArgument: not such a file, or the field that is missing or wrong
absl::StatusOr<Report> ParseSaved(std::string_view text);

// Facts and figures without the requests, indented.
std::string FiguresJson(const Report& report);

}  // namespace tandem::bench
