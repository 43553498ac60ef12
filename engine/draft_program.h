// The drafter's forward as a list of operations: what runs, in which order, and how often.
//
// The list is made once from the configuration and the drafter executes nothing else, so that what
// a draft costs can be read off it and a test can hold it against the list that it should be.
//
// Source    mtp.md 1.5, 1.8, 3.8. Not here  buffers and execution (assistant.h).
#pragma once

#include <string>
#include <vector>

#include "engine/assistant_config.h"

namespace tandem::engine {

struct DraftOp {
  enum class Kind {
    kHandoffs,        // the target's rows into the right half of u
    kRope,            // cos and sin of the position, of one KV group
    kEmbed,           // the target's embedding into the left half of u
    kPre,             // x = W_pre u
    kInputNorm,       // n = norm(x)
    kQuery,           // q = W_q n
    kQueryPost,       // per-head norm and rotation of q
    kAttention,       // over the donor's committed rows
    kOutput,          // y = W_o attention
    kAttentionAdd,    // x = x + norm(y)
    kFfnNorm,         // n = norm(x)
    kGateUp,          // gelu(gate n) * (up n)
    kDown,            // y = W_down of it
    kFfnAdd,          // x = (x + norm(y)) * layer scalar
    kFinalNorm,       // z = norm(x)
    kLogits,          // dense head
    kCentroids,       // clustered head: score of every cluster
    kChooseClusters,  // the best of them
    kClusterLogits,   // logits of their tokens
    kSoftcap,
    kChooseToken,  // the guess
    kPost,         // W_post z into the right half of u, for the next step
  };
  // How often an operation runs.
  enum class Runs {
    kPerChain,
    kPerStep,
    kPerChunk,     // once per chunk of rows that the buffer of logits holds; these are neighbours
    kBetweenSteps  // in every step but the last
  };

  Kind kind = Kind::kHandoffs;
  Runs runs = Runs::kPerStep;
  int layer = -1;            // of the drafter, or -1
  KvGroup group = kSliding;  // kRope only
  std::string name;          // "layers.2.attention"
};

// The forward of a fitted assistant. The embedding and the first row of a chain come from the
// target; nothing is pooled, and nothing is written but the drafter's own buffers.
std::vector<DraftOp> MakeDraftProgram(const AssistantConfig& config);

}  // namespace tandem::engine
