// Groups the pairs (row, chosen expert) by expert, for the products of experts.h.
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

// Some of the pairs of one expert: places [begin, end) of the order.
struct alignas(16) ExpertTile {
  int32_t expert = 0;
  int32_t begin = 0;
  int32_t end = 0;
  int32_t unused = 0;
};

struct ExpertSortArgs {
  const int32_t* ids = nullptr;  // [pairs] the expert of each, in [0, experts)
  int pairs = 0;
  int experts = 0;              // at most kMaxExperts (route.h)
  int tile_rows = 0;            // places of one tile at most
  int32_t* order = nullptr;     // [pairs] the pair of each place: by expert, then by pair
  ExpertTile* tiles = nullptr;  // [MaxExpertTiles], ascending places
  int32_t* num_tiles = nullptr;
};

// Tiles that `pairs` can make at most, whoever chose whom.
constexpr int MaxExpertTiles(int pairs, int experts, int tile_rows) {
  // Every tile but an expert's last is full; each further chosen expert can add one.
  const int chosen = pairs < experts ? pairs : experts;
  return chosen + (pairs - chosen) / tile_rows;
}

// pairs > 0.
void SortByExpert(const ExpertSortArgs& args, Stream stream);

}  // namespace tandem::kernels::K_WORLD
