// Joins the partial results of split attention, and chooses its kernels.
//
//   out[t, n, :] = o / l of all chunks that the row sees, finished as attention_finish.h says
//
// Order     a left fold over the chunks of a super-chunk, ascending, then over super-chunks: as in
//           blocks that walk a whole super-chunk (attention_split.h).
// Launch    grid = ceil(rows * q heads / 8), block = 256; a warp per row and head, D/32 values that
//           are neighbours per lane. Rows of other waves and of no part are passed over.
// Traffic   reads 4*D + 8 B per row, head and unit that it sees, which come from L2 where batches
//           are small; writes 2*D B per row and head. 60 B of the plan.
// Roofline  memory bound, latency bound in small steps.
// Truth     tests/emu/attention_test.cc.
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_finish.h"
#include "kernels/cuda/attention_fold.h"
#include "kernels/cuda/attention_instances.h"

namespace tandem::kernels::K_WORLD {

constexpr int kMergeThreads = 256;
constexpr int kMergeWarps = kMergeThreads / kWarp;
constexpr int kQuad = 4;  // floats in one access

// A lane's values of one packed row.
template <int kValues>
struct FoldState {
  float max = MinusInfinity();
  float sum = 0.0f;
  float o[kValues] = {};

  K_DEVICE void FoldIn(const FoldState& right) {
    const FoldFactors factors = FoldAt(max, right.max);
    max = factors.max;
    sum = Fold(sum, right.sum, factors);
    K_UNROLL
    for (int i = 0; i < kValues; ++i) o[i] = Fold(o[i], right.o[i], factors);
  }
};

// A struct of up to 32 ints, one per lane.
template <typename T>
K_DEVICE int LoadInts(const T* ints, int lane) {
  constexpr int kInts = sizeof(T) / sizeof(int32_t);
  return lane < kInts ? ld(reinterpret_cast<const int32_t*>(ints) + lane) : 0;
}

template <int kDim>
K_DEVICE FoldState<kDim / kWarp> LoadPartial(const AttentionWork& work, int64_t slot_row, int rows,
                                             int lane) {
  constexpr int kValues = kDim / kWarp;
  FoldState<kValues> state;
  const float* values = work.partials + slot_row * kDim + lane * kValues;
  K_UNROLL
  for (int i = 0; i < kValues; i += kQuad) {
    const Vec<float, kQuad> quad = ld(reinterpret_cast<const Vec<float, kQuad>*>(values + i));
    K_UNROLL
    for (int j = 0; j < kQuad; ++j) state.o[i + j] = quad[j];
  }
  const float* stats = work.partials + work.max_slots * rows * kDim + slot_row * 2;
  const float stat = lane < 2 ? ld(stats + lane) : 0.0f;
  state.max = __shfl_sync(kFullMask, stat, 0);
  state.sum = __shfl_sync(kFullMask, stat, 1);
  return state;
}

template <int kDim>
__global__ void __launch_bounds__(kMergeThreads) AttnMergeKernel(const AttentionMergeArgs args) {
  constexpr int kValues = kDim / kWarp;
  const AttentionWork& work = args.work;
  const int lane = lane_id();
  const int index = static_cast<int>(blockIdx.x) * kMergeWarps + warp_id();
  if (index >= args.rows * args.num_q_heads) return;
  const int row = index / args.num_q_heads, q_head = index % args.num_q_heads;
  const int group = args.num_q_heads / args.num_kv_heads;
  const int part_id = __shfl_sync(kFullMask, lane == 0 ? ld(work.part_of_row + row) : 0, 0);
  const int wave_ints = LoadInts(work.wave, lane);
  const int item_begin = __shfl_sync(kFullMask, wave_ints, 0);
  const int part_begin = __shfl_sync(kFullMask, wave_ints, 2);
  const int part_end = __shfl_sync(kFullMask, wave_ints, 3);
  if (part_id < part_begin || part_id >= part_end) return;

  const int part_ints = LoadInts(work.parts + part_id, lane);
  const int row_begin = __shfl_sync(kFullMask, part_ints, 0);
  const int item_base = __shfl_sync(kFullMask, part_ints, 3);
  const int unit_begin = __shfl_sync(kFullMask, part_ints, 4);
  const int num_m_tiles = __shfl_sync(kFullMask, part_ints, 6);
  const int seen_ints = LoadInts(work.visible + row, lane);
  const int begin = __shfl_sync(kFullMask, seen_ints, 0);
  const int end = __shfl_sync(kFullMask, seen_ints, 1);

  const int tile_rows = 16 * work.grain.m_tiles;
  const int packed = (row - row_begin) * group + q_head % group;
  // The row's partial result of a unit.
  const auto load = [&](int unit) {
    const int64_t item =
        item_base - item_begin + int64_t{unit - unit_begin} * num_m_tiles + packed / tile_rows;
    const int64_t slot = item * args.num_kv_heads + q_head / group;
    return LoadPartial<kDim>(work, slot * tile_rows + packed % tile_rows, tile_rows, lane);
  };
  FoldState<kValues> total;
  const int chunk_tokens = work.chunk_tokens, super_tokens = kChunksPerSuper * chunk_tokens;
  const int first_chunk = begin / chunk_tokens;
  if (begin < end) {
    const int last_chunk = (end - 1) / chunk_tokens, last_super = (end - 1) / super_tokens;
    for (int super = begin / super_tokens; super <= last_super; ++super) {
      FoldState<kValues> inner;
      if (work.grain.super_chunks) {
        inner = load(super);
      } else {
        const int first = super * kChunksPerSuper, last = first + kChunksPerSuper - 1;
        for (int chunk = first > first_chunk ? first : first_chunk;
             chunk <= (last < last_chunk ? last : last_chunk); ++chunk) {
          inner.FoldIn(load(chunk));
        }
      }
      total.FoldIn(inner);
    }
  }

  FinishRow<kDim>(total.o, InverseSum(total.sum), args.v_format, args.out + int64_t{index} * kDim);
}

namespace {

// Kernels of one pair of formats.
struct Instances {
  int k_format;
  int v_format;
  SplitKernel (*split)(int head_dim, AttentionGrain grain);
  DirectKernel (*direct)(int head_dim);
};

template <int kKFormat, int kVFormat>
constexpr Instances InstancesOf() {
  return {kKFormat, kVFormat, SplitKernelOf<kKFormat, kVFormat>,
          DirectKernelOf<kKFormat, kVFormat>};
}

constexpr Instances kInstances[] = {
    InstancesOf<kBf16Kv, kBf16Kv>(),     InstancesOf<kF16Kv, kF16Kv>(),
    InstancesOf<kQ8Kv, kQ8Kv>(),         InstancesOf<kQ8Kv, kTurbo4Kv>(),
    InstancesOf<kTurbo4Kv, kTurbo4Kv>(), InstancesOf<kTurbo4Kv, kTurbo3Kv>(),
    InstancesOf<kTurbo3Kv, kTurbo3Kv>(), InstancesOf<kTurbo3Kv, kTurbo2Kv>(),
    InstancesOf<kTurbo2Kv, kTurbo2Kv>(),
};

Instances ChooseInstances(KvFormat k_format, KvFormat v_format) {
  for (const Instances& one : kInstances) {
    if (one.k_format == static_cast<int>(k_format) && one.v_format == static_cast<int>(v_format)) {
      return one;
    }
  }
  return InstancesOf<kAnyFormat, kAnyFormat>();
}

}  // namespace

size_t AttentionWorkspaceBytes(int64_t max_slots, int m_tiles, int head_dim) {
  return static_cast<size_t>(max_slots) * 16 * m_tiles * (head_dim + 2) * sizeof(float);
}

bool AttentionSupports(const AttentionShape& shape) {
  const auto stored = [](KvFormat format) {
    return format != KvFormat::kF32 && static_cast<int>(format) < kNumKvFormats;
  };
  return (shape.head_dim == 256 || shape.head_dim == 512) && stored(shape.k_format) &&
         stored(shape.v_format);
}

bool AllowAttention(const AttentionShape& shape, AttentionGrain grain) {
  const SplitKernel split =
      ChooseInstances(shape.k_format, shape.v_format).split(shape.head_dim, grain);
  return AllowSharedMemory(split.kernel, split.shared_bytes);
}

void AttentionSplit(const AttentionSplitArgs& args, Stream stream) {
  const SplitKernel split =
      ChooseInstances(args.kv.k_format, args.kv.v_format).split(args.head_dim, args.work.grain);
  launch(split.kernel, args.blocks, split.threads, split.shared_bytes, stream, args);
}

void AttentionMerge(const AttentionMergeArgs& args, Stream stream) {
  const int warps = args.rows * args.num_q_heads;
  if (warps == 0) return;
  launch(args.head_dim == 256 ? AttnMergeKernel<256> : AttnMergeKernel<512>,
         (warps + kMergeWarps - 1) / kMergeWarps, kMergeThreads, 0, stream, args);
}

void AttentionDirect(const AttentionDirectArgs& args, Stream stream) {
  const DirectKernel direct =
      ChooseInstances(args.kv.k_format, args.kv.v_format).direct(args.head_dim);
  launch(direct.kernel, args.blocks, direct.threads, direct.shared_bytes, stream, args);
}

}  // namespace tandem::kernels::K_WORLD
