// The output head for few rows: logits with soft-cap and suppression, or the best id of each row.
//
//   z[t,v] = suppressed[v] ? -inf : cap * tanh(y[t,v] / cap),  y[t,v] = sum_k table[v,k] * x[t,k]
//   choice[t] = argmax_v z[t,v], ties to the lowest v
//
// Shapes    x [rows, dim] bf16, table [vocab, dim] bf16 or int8 with scales, z [rows, vocab] f32;
//           dim % 8 == 0.
// Launch    block = 256; grid = ceil(rows / (8*columns)) * ceil(vocab / 32): the product of
//           w_linear_tile.h (int8: w_linear_codes_tile.h), then a warp per row and a lane per id.
//           HeadFoldKernel, grid = rows, reduces the choices of the blocks of a row.
// Traffic   reads 2*dim*vocab B of the table (int8: 17/16 B per value of the full tiles of 16 x 64,
//           emulation counts 5/4), once per ceil(rows / (8*columns)) (from L2 after the first),
//           2*dim*rows B of x, once per 32 ids (from L2), and a word of `suppressed` per block;
//           writes 4 B per logit, or 8 B per row and 32 ids, which are read again.
// Roofline  memory bound: 262144 x 5376 moves 2.82 GB, 0.66 ms at 4.3 TB/s.
// Truth     LinearReference (kernels/reference/linear_ref.h); tests/emu/head_test.cc.
#include <type_traits>

#include "kernels/cuda/head.h"
#include "kernels/cuda/w_linear_codes_tile.h"
#include "kernels/cuda/w_linear_tile.h"

namespace tandem::kernels::K_WORLD {

constexpr int kHeadTiles = 2;
constexpr int kHeadIds = 16 * kHeadTiles;
static_assert(kHeadIds == kWarp, "a lane per id");

struct HeadResult {
  float* logits = nullptr;        // [rows, vocab], or
  HeadChoice* choices = nullptr;  // [rows, ceil(vocab / 32)]
  const uint32_t* suppressed = nullptr;
  float cap = 0.0f;
};

K_DEVICE HeadChoice Better(HeadChoice a, HeadChoice b) {
  return b.value > a.value || (b.value == a.value && b.id < a.id) ? b : a;
}

// The best of the warp, in every lane. No value is NaN.
K_DEVICE HeadChoice BestOfWarp(HeadChoice best) {
  K_UNROLL
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const float value = __shfl_xor_sync(kFullMask, best.value, distance);
    const int32_t id = __shfl_xor_sync(kFullMask, best.id, distance);
    best = Better(best, {value, id});
  }
  return best;
}

// Loses against everything.
K_DEVICE HeadChoice NoChoice() { return {f32_of_bits(0xff800000u), 0x7fffffff}; }

// The product with a table of kBits per value.
template <int kBits>
using HeadOperands = std::conditional_t<kBits == 16, LinearOperands, CodesOperands<kBits>>;

// Blocks on a multiprocessor that registers must suffice for; 0: as ptxas likes it. Left to itself
// it spills 8 bytes of one variant to have three.
template <int kBits, int kColumns>
constexpr int kHeadMinBlocks = kBits == 16 && kColumns == 2 ? 2 : 0;

template <int kBits, int kColumns>
__global__ void __launch_bounds__(kLinearThreads, (kHeadMinBlocks<kBits, kColumns>))
    HeadKernel(HeadOperands<kBits> operands, HeadResult result) {
  using Tile = LinearTile<kHeadTiles, kColumns>;
  K_SHARED(float, partials, Tile::kPartials);
  SumSegments<kHeadTiles, kColumns>(operands, PositionOfBlock<kHeadTiles, kColumns>(operands),
                                    partials);
  __syncthreads();
  const LinearPosition at = PositionOfBlock<kHeadTiles, kColumns>(operands);
  const int vocab = operands.out;
  const int block_of_ids = at.first_output / kHeadIds;
  const int id = at.first_output + lane_id();
  const bool suppressed = result.suppressed != nullptr &&
                          (ld_nc(result.suppressed + block_of_ids) >> lane_id() & 1) != 0;
  for (int i = warp_id(); i < Tile::kRows && at.first_row + i < operands.rows;
       i += kLinearSegments) {
    const int64_t row = at.first_row + i;
    float z = SumOfSegments<kHeadTiles, kColumns>(partials, i, lane_id());
    if (result.cap > 0.0f) z = mul_rn(result.cap, tanh_acc(div_rn(z, result.cap)));
    if (suppressed) z = NoChoice().value;
    if (result.logits != nullptr) {
      if (id < vocab) st_cs(result.logits + row * vocab + id, z);
    } else {
      HeadChoice choice = NoChoice();
      if (id < vocab) choice = {z > choice.value ? z : choice.value, id};
      choice = BestOfWarp(choice);
      if (lane_id() == 0) {
        st(&result.choices[row * ((vocab + kHeadIds - 1) / kHeadIds) + block_of_ids], choice);
      }
    }
  }
}

// choices [rows] from those of a row's blocks.
__global__ void __launch_bounds__(kLinearThreads)
    HeadFoldKernel(const HeadChoice* blocks, int num_blocks, HeadChoice* choices) {
  K_SHARED(HeadChoice, best_of_warp, kLinearSegments);
  const int64_t row = blockIdx.x;
  HeadChoice best = NoChoice();
  for (int i = static_cast<int>(threadIdx.x); i < num_blocks; i += kLinearThreads) {
    best = Better(best, ld(blocks + row * num_blocks + i));
  }
  best = BestOfWarp(best);
  if (lane_id() == 0) best_of_warp[warp_id()] = best;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int i = 1; i < kLinearSegments; ++i) best = Better(best, best_of_warp[i]);
    st(choices + row, best);
  }
}

template <int kBits>
static void LaunchHeadKernel(const HeadOperands<kBits>& operands, const HeadResult& result,
                             Stream stream) {
  // Codes and scales take the registers of more columns.
  constexpr int kMostColumns = kBits == 16 ? 4 : 2;
  const int columns = operands.rows <= 8 ? 1 : operands.rows <= 16 ? 2 : kMostColumns;
  const auto kernel = columns == 1   ? HeadKernel<kBits, 1>
                      : columns == 2 ? HeadKernel<kBits, 2>
                                     : HeadKernel<kBits, kMostColumns>;
  launch(kernel, LinearBlocks(operands, kHeadTiles, columns), kLinearThreads, 0, stream, operands,
         result);
}

static void LaunchHead(const HeadArgs& args, float* logits, HeadChoice* choices, Stream stream) {
  const HeadResult result = {
      .logits = logits, .choices = choices, .suppressed = args.suppressed, .cap = args.cap};
  if (args.table != nullptr) {
    LaunchHeadKernel<16>({.x = args.x,
                          .x_stride = args.x_stride,
                          .w = args.table,
                          .rows = args.rows,
                          .in = args.dim,
                          .out = args.vocab},
                         result, stream);
  } else {
    LaunchHeadKernel<8>({.x = args.x,
                         .x_stride = args.x_stride,
                         .codes = args.codes,
                         .scales = args.scales,
                         .rows = args.rows,
                         .in = args.dim,
                         .out = args.vocab},
                        result, stream);
  }
}

void HeadLogits(const HeadArgs& args, float* logits, Stream stream) {
  if (args.rows == 0) return;
  LaunchHead(args, logits, nullptr, stream);
}

size_t HeadScratch(int rows, int vocab) {
  return static_cast<size_t>(rows) * ((static_cast<size_t>(vocab) + kHeadIds - 1) / kHeadIds);
}

void HeadArgmax(const HeadArgs& args, HeadChoice* scratch, HeadChoice* choices, Stream stream) {
  if (args.rows == 0) return;
  LaunchHead(args, nullptr, scratch, stream);
  launch(HeadFoldKernel, args.rows, kLinearThreads, 0, stream, scratch,
         static_cast<int>(HeadScratch(1, args.vocab)), choices);
}

}  // namespace tandem::kernels::K_WORLD
