// Which of the two Gemma 4 chat templates a checkpoint was trained with.
#pragma once

#include <optional>
#include <string_view>

namespace tandem::server {

struct ChatFormat {
  // 12B, 26B-A4B, 31B: without thinking the model's turn starts with an empty thought channel.
  bool empty_thought = false;
};

// By the source of the checkpoint's own template (Jinja; nullopt: it has none), else by its size:
// only E2B and E4B have per-layer embeddings.
//   ple_width  width of the per-layer embeddings, 0 without
ChatFormat ChatFormatOf(std::optional<std::string_view> template_source, int ple_width);

}  // namespace tandem::server
