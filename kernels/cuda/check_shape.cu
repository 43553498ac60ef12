#include "absl/strings/str_cat.h"
#include "kernels/cuda/check_shape.h"
#include "kernels/cuda/norms.h"
#include "kernels/cuda/p_linear.h"
#include "kernels/cuda/qkv_post.h"
#include "kernels/cuda/route.h"
#include "kernels/cuda/row_ops.h"
#include "kernels/cuda/w_linear.h"

namespace tandem::kernels::K_WORLD {
namespace {

// What was built of the kind, and whether the shape is among it.
struct Answer {
  bool supported = false;
  const char* built = "";
};

Answer AnswerTo(const ShapeNeed& need) {
  switch (need.kind) {
    case ShapeNeed::Kind::kNorm:
      return {NormSupports(need.size), "norms of rows of a multiple of 8 values, up to 6144"};
    case ShapeNeed::Kind::kProduct:
      return {WLinearSupports(need.size) && PLinearSupports(need.size),
              "products of rows of a multiple of 8 values"};
    case ShapeNeed::Kind::kRope:
      return {QkvPostSupports(need.size, need.part, KvFormat::kBf16, KvFormat::kBf16),
              "heads of 256 and 512 values of which a multiple of 16 pairs turns"};
    case ShapeNeed::Kind::kPle:
      return {PleSupports(need.size), "per-layer embeddings of a multiple of 8 values, up to 256"};
    case ShapeNeed::Kind::kExperts:
      return {RouteSupports(need.size, need.part), "up to 1024 experts and 32 of them per token"};
  }
  return {};
}

}  // namespace

absl::Status CheckShape(const ShapeNeed& need, const std::string& device) {
  const Answer answer = AnswerTo(need);
  if (answer.supported) return absl::OkStatus();
  const std::string part = need.part != 0 ? absl::StrCat(" with ", need.part) : "";
  return absl::UnimplementedError(absl::StrCat(need.name, " is ", need.size, part,
                                               ", and the kernels of ", device, " are for ",
                                               answer.built, "; use --device cpu"));
}

}  // namespace tandem::kernels::K_WORLD
