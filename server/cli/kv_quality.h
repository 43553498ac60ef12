// What KV formats do to a model: the next-token distributions of its own texts, computed with each
// format and held against those of a reference format.
//
// Every text is fed to one runner per format, the same rows in the same steps. A row of a chunk
// reads K and V as they are stored, so its logits are those that decoding the text token by token
// would give.
//
// Not here  the texts and the model (bench_kv_quality.cc), the measure (kv_divergence.h), reports.
// Threads   one caller; the rows of a step are compared on the backend's team.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/load_model.h"
#include "engine/step.h"
#include "kernels/ops.h"
#include "server/cli/kv_divergence.h"
#include "server/config/bench_kv_options.h"

namespace tandem::server {

// A text, of which the rows from `first_scored` on are compared: each tells what may come next.
struct ScoredText {
  std::string task;  // its class
  std::vector<int32_t> ids;
  int first_scored = 0;
};

// Positions [begin, end).
struct PositionRange {
  int begin = 0;
  int end = 0;
};

// [0, 32), then twice as long each, up to the one that holds `positions` - 1. None for 0.
std::vector<PositionRange> PositionRanges(int positions);

// One format against the reference.
struct FormatQuality {
  KvChoice choice;
  // By group, of blocks as they are allocated: padding and scales counted. 0: the model has no such
  // layers.
  std::array<double, engine::kNumKvGroups> bytes_per_token = {};
  Divergences all;
  std::vector<Divergences> by_task;   // as in QualityResult::tasks
  std::vector<Divergences> by_range;  // as in QualityResult::ranges
  int64_t same_texts = 0;  // where every scored row has the same most likely id: with greedy
                           // sampling the format alone would have written the same

  double all_bytes_per_token() const { return bytes_per_token[0] + bytes_per_token[1]; }
};

struct QualityResult {
  FormatQuality reference;  // its divergences stay empty
  std::vector<FormatQuality> formats;
  std::vector<std::string> tasks;     // in the order in which they first come
  std::vector<PositionRange> ranges;  // of positions that are scored
  int64_t texts = 0;
  int64_t positions = 0;  // scored
};

struct QualityPlan {
  KvChoice reference;
  std::vector<KvChoice> formats;
  std::vector<ScoredText> texts;
  int block_tokens = 32;
};

//   done    called after each text with how many are through
//   errors  kInvalidArgument for formats that the layers can not have, kUnimplemented for formats
//           that no kernel has; kDataLoss, naming text and format, when logits of the reference, or
//           K or V rows of any, are not finite
absl::StatusOr<QualityResult> CompareFormats(const engine::Model& model, const kernels::Ops& ops,
                                             const QualityPlan& plan,
                                             const std::function<void(int64_t done)>& done);

}  // namespace tandem::server
