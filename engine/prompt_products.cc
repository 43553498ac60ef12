#include "engine/prompt_products.h"

#include <algorithm>

namespace tandem::engine {

std::vector<kernels::PromptProduct> PromptProducts(const Weights& weights) {
  std::vector<kernels::PromptProduct> products;
  const auto add = [&](const kernels::WeightView& w, bool geglu) {
    const auto same = [&](const kernels::PromptProduct& p) {
      return p.out == w.out && p.in == w.in && p.geglu == geglu;
    };
    if (w.out == 0 || std::any_of(products.begin(), products.end(), same)) return;
    products.push_back({w.out, w.in, geglu});
  };
  add(weights.ple_context, false);
  for (const LayerWeights& layer : weights.layers) {
    for (const kernels::WeightView* matrix :
         {&layer.qkv, &layer.o, &layer.down, &layer.ple_gate, &layer.ple_up}) {
      add(*matrix, false);
    }
    add(layer.gate_up, true);
  }
  return products;
}

}  // namespace tandem::engine
