// The routed experts: gate and up with GeGLU, down, and the sum over each row's experts.
//
//   hidden[p,i] = gelu_tanh(gate_e,i . x[t]) * (up_e,i . x[t])     bf16, p the place of pair (t, j)
//   down[t,j,d] = sum_i down_e[d,i] * hidden[p,i]                  f32, e = ids[t,j]
//   out[t,d]    = sum_j weights[t,j] * down[t,j,d]                 j ascending, fused, from 0
//
// Shapes    x [rows, dim] bf16, gate_up [experts][GateUpRows(width), dim], down [experts][dim,
//           width]; out [rows, dim] f32; dim % 8 == 0, width % 8 == 0. Passes of 2048 rows.
// Launch    the sort (expert_sort.h), the two products (experts_products.h, or experts_prompt.cu);
//           combine: block = 256, a thread per four values, grid = rows * ceil(dim / 1024).
// Traffic   B of a pass, with P = rows*top_k pairs and tiles of R places.
//           Reads: the weights of each chosen expert once per ceil(its pairs / R) (from L2 after
//           the first); 2*dim*P of x and 2*width*P of hidden per 32 outputs (from L2); 4*(dim +
//           1)*P of down and weights; to find their way, 5120 per launched block of a product (the
//           same 20 in every thread), 128 per place and block of gate_up, 4 of down; the sort's.
//           Writes: 2*width*P of hidden, 4*dim*P of down, 4*dim*rows of out; the sort's.
// Roofline  memory bound: 128 rows of 26B-A4B read nearly all of its 128 experts of 2816 x 704,
//           1.52 GB, 354 us at 4.3 TB/s; one row reads 8 of them, 95 MB, 22 us.
// Truth     ExpertsReference (kernels/reference/linear_ref.h); tests/emu/experts_test.cc.
#include "kernels/cuda/expert_sort.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/experts_pass.h"
#include "kernels/cuda/route.h"
#include "kernels/cuda/w_linear.h"
#include "kernels/cuda/w_linear_pack.h"

namespace tandem::kernels::K_WORLD {

constexpr int kCombineThreads = 256;
constexpr int kCombineVec = 4;
constexpr int kCombineValues = kCombineThreads * kCombineVec;  // of one block

__global__ void __launch_bounds__(kCombineThreads)
    ExpertsCombineKernel(const float* down, const float* weights, int top_k, int dim, float* out) {
  K_SHARED(float, weight, kMaxChosenExperts);
  const int thread = static_cast<int>(threadIdx.x);
  const int block = static_cast<int>(blockIdx.x);
  const int blocks_of_row = (dim + kCombineValues - 1) / kCombineValues;
  const int64_t row = block / blocks_of_row;
  const int d = block % blocks_of_row * kCombineValues + thread * kCombineVec;
  if (thread < top_k) weight[thread] = ld_nc(weights + row * top_k + thread);
  __syncthreads();
  if (d < dim) {
    const float* const from = down + (row * top_k * dim + d);
    float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int j = 0; j < top_k; ++j) {
      const float4 v = ld_nc(reinterpret_cast<const float4*>(from + int64_t{j} * dim));
      sum.x = fma_rn(weight[j], v.x, sum.x);
      sum.y = fma_rn(weight[j], v.y, sum.y);
      sum.z = fma_rn(weight[j], v.z, sum.z);
      sum.w = fma_rn(weight[j], v.w, sum.w);
    }
    st(reinterpret_cast<float4*>(out + (row * dim + d)), sum);
  }
}

// Whether the kernels for prompt rows run: they know one format.
static bool RunsAsPrompt(const ExpertsArgs& args) {
  return args.prompt && args.gate_up.format == WeightFormat::kBf16 &&
         args.down.format == WeightFormat::kBf16;
}

// Places of a tile: enough for most experts of a pass, so that few weights are read twice. Bits do
// not depend on it.
static int ChooseTileRows(int pairs, int experts, bool as_prompt) {
  if (as_prompt) return pairs <= 8 * experts ? 16 : pairs <= 32 * experts ? 64 : 128;
  return pairs <= 4 * experts ? 8 : pairs <= 12 * experts ? 16 : 32;
}

// Where the arrays of a pass begin in the workspace.
struct ExpertsLayout {
  size_t down = 0;  // [pairs, dim] f32
  size_t hidden;    // [pairs, width] bf16
  size_t tiles;     // [MaxExpertTiles of the smallest tiles]
  size_t order;     // [pairs] int32
  size_t num_tiles;
  size_t bytes;
};

static ExpertsLayout LayOut(int pairs, int dim, int width, int experts) {
  const size_t count = static_cast<size_t>(pairs);
  const auto round = [](size_t bytes) { return (bytes + 15) / 16 * 16; };
  ExpertsLayout at;
  at.hidden = at.down + round(count * dim * sizeof(float));
  at.tiles = at.hidden + round(count * width * sizeof(bf16));
  at.order = at.tiles + MaxExpertTiles(pairs, experts, 8) * sizeof(ExpertTile);
  at.num_tiles = at.order + round(count * sizeof(int32_t));
  at.bytes = at.num_tiles + round(sizeof(int32_t));
  return at;
}

static void RunPass(const ExpertsArgs& args, void* workspace, Stream stream) {
  const int num_pairs = args.rows * args.top_k;
  const ExpertsLayout at = LayOut(num_pairs, args.dim, args.width, args.experts);
  std::byte* const base = static_cast<std::byte*>(workspace);
  int32_t* const order = reinterpret_cast<int32_t*>(base + at.order);
  int32_t* const num_tiles = reinterpret_cast<int32_t*>(base + at.num_tiles);
  ExpertTile* const tiles = reinterpret_cast<ExpertTile*>(base + at.tiles);
  const bool as_prompt = RunsAsPrompt(args);
  const int tile_rows = ChooseTileRows(num_pairs, args.experts, as_prompt);
  SortByExpert({.ids = args.ids,
                .pairs = num_pairs,
                .experts = args.experts,
                .tile_rows = tile_rows,
                .order = order,
                .tiles = tiles,
                .num_tiles = num_tiles},
               stream);

  const ExpertsPass pass = {.pairs = {tiles, num_tiles, order, args.top_k},
                            .tile_rows = tile_rows,
                            .most_tiles = MaxExpertTiles(num_pairs, args.experts, tile_rows),
                            .width = args.width,
                            .hidden = reinterpret_cast<bf16*>(base + at.hidden),
                            .down = reinterpret_cast<float*>(base + at.down)};
  const LinearOperands gate_up = {
      .x = args.x, .x_stride = args.x_stride, .in = args.dim, .out = GateUpRows(args.width)};
  const LinearOperands down = {
      .x = pass.hidden, .x_stride = args.width, .in = args.width, .out = args.dim};
  if (as_prompt) {
    LaunchPromptExpertsGateUp(gate_up, args.gate_up, pass, stream);
    LaunchPromptExpertsDown(down, args.down, pass, stream);
  } else {
    LaunchExpertsGateUp(gate_up, args.gate_up, pass, stream);
    LaunchExpertsDown(down, args.down, pass, stream);
  }
  const int blocks_of_row = (args.dim + kCombineValues - 1) / kCombineValues;
  launch(ExpertsCombineKernel, args.rows * blocks_of_row, kCombineThreads, 0, stream, pass.down,
         args.weights, args.top_k, args.dim, args.out);
}

bool ExpertsSupports(int dim, int width, int experts, int top_k) {
  return WLinearSupports(dim) && WLinearSupports(width) && RouteSupports(experts, top_k);
}

size_t ExpertsWorkspaceBytes(int rows, int dim, int width, int experts, int top_k) {
  const int pass = rows < kExpertsPassRows ? rows : kExpertsPassRows;
  return LayOut(pass * top_k, dim, width, experts).bytes;
}

void Experts(const ExpertsArgs& args, void* workspace, Stream stream) {
  for (int row = 0; row < args.rows; row += kExpertsPassRows) {
    ExpertsArgs pass = args;
    pass.rows = args.rows - row < kExpertsPassRows ? args.rows - row : kExpertsPassRows;
    pass.x += row * args.x_stride;
    pass.ids += int64_t{row} * args.top_k;
    pass.weights += int64_t{row} * args.top_k;
    pass.out += int64_t{row} * args.dim;
    RunPass(pass, workspace, stream);
  }
}

}  // namespace tandem::kernels::K_WORLD
