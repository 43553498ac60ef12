// A KV pool and a batch of segments for attention tests: rows of every format in scattered blocks,
// poison wherever a kernel must not look.
#pragma once

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "kernels/kv_row.h"
#include "kernels/ops.h"
#include "kernels/reference/kv_row_ref.h"
#include "tests/kernels/test_backend.h"

namespace tandem::kernels {

struct KvShape {
  int head_dim = 256;
  int num_kv_heads = 1;
  int log2_block_tokens = 5;
  KvFormat k_format = KvFormat::kBf16;
  KvFormat v_format = KvFormat::kBf16;
};

// Blocks of one layer, 128-byte aligned, every byte `dirt` until written; 0xff is NaN in each
// format and in each scale.
class PagedKv {
 public:
  PagedKv(const KvShape& shape, int blocks, int dirt = 0xff) : shape_(shape) {
    const size_t tokens = size_t{1} << shape.log2_block_tokens;
    const auto scale_bytes = [&](KvFormat format) { return KvHasScale(format) ? tokens * 2 : 0; };
    view_.v_offset = tokens * KvRowBytes(shape.k_format, shape.head_dim);
    view_.k_scale_offset = view_.v_offset + tokens * KvRowBytes(shape.v_format, shape.head_dim);
    view_.v_scale_offset = view_.k_scale_offset + scale_bytes(shape.k_format);
    view_.head_stride = (view_.v_scale_offset + scale_bytes(shape.v_format) + 127) / 128 * 128;
    view_.block_stride = view_.head_stride * shape.num_kv_heads + 256;  // other layers' bytes
    view_.log2_block_tokens = shape.log2_block_tokens;
    view_.k_format = shape.k_format;
    view_.v_format = shape.v_format;
    bytes_.assign(view_.block_stride * blocks + 128, static_cast<std::byte>(dirt));
    const size_t misalignment = reinterpret_cast<uintptr_t>(bytes_.data()) % 128;
    view_.base = bytes_.data() + (128 - misalignment) % 128;
    free_.resize(blocks);
    std::iota(free_.begin(), free_.end(), 0);
    std::shuffle(free_.begin(), free_.end(), std::mt19937(blocks));
  }
  PagedKv(const PagedKv&) = delete;
  PagedKv& operator=(const PagedKv&) = delete;

  const KvView& view() const { return view_; }
  const std::vector<std::byte>& bytes() const { return bytes_; }
  int block_tokens() const { return 1 << shape_.log2_block_tokens; }

  // A block that nobody has yet.
  int32_t Take() {
    const int32_t block = free_.back();
    free_.pop_back();
    return block;
  }

  KvRow K(int32_t block, int head, int cell) const {
    return KRowAt(view_, block, head, cell, shape_.head_dim);
  }
  KvRow V(int32_t block, int head, int cell) const {
    return VRowAt(view_, block, head, cell, shape_.head_dim);
  }
  void WriteK(int32_t block, int head, int cell, std::span<const float> values) {
    EncodeRowReference(values.data(), shape_.k_format, shape_.head_dim, K(block, head, cell));
  }
  void WriteV(int32_t block, int head, int cell, std::span<const float> values) {
    EncodeRowReference(values.data(), shape_.v_format, shape_.head_dim, V(block, head, cell));
  }
  // In the row's own space.
  std::vector<float> ReadK(int32_t block, int head, int cell) const {
    std::vector<float> values(shape_.head_dim);
    DecodeRowReference(shape_.k_format, shape_.head_dim, K(block, head, cell), values.data());
    return values;
  }
  std::vector<float> ReadV(int32_t block, int head, int cell) const {
    std::vector<float> values(shape_.head_dim);
    DecodeRowReference(shape_.v_format, shape_.head_dim, V(block, head, cell), values.data());
    return values;
  }

  // Codes of a row, and what they hold in a format without a scale.
  std::byte* KRow(int32_t block, int head, int cell) { return K(block, head, cell).codes; }
  std::byte* VRow(int32_t block, int head, int cell) { return V(block, head, cell).codes; }
  std::vector<float> Read(const std::byte* row, KvFormat format) const {
    std::vector<float> values(shape_.head_dim);
    DecodeRowReference(format, shape_.head_dim, {.codes = const_cast<std::byte*>(row)},
                       values.data());
    return values;
  }

 private:
  KvShape shape_;
  KvView view_;
  std::vector<std::byte> bytes_;
  std::vector<int32_t> free_;
};

struct Interval {
  int begin = 0;
  int end = 0;
};

// One sequence in a batch: what each of its rows sees.
using SegmentRows = std::vector<Interval>;

// `rows` rows behind each other, the last of which sees `context` positions (window 0: all of
// them).
inline SegmentRows CausalRows(int context, int rows, int window = 0) {
  SegmentRows intervals;
  for (int end = context - rows + 1; end <= context; ++end) {
    intervals.push_back({window == 0 ? 0 : std::max(0, end - window), end});
  }
  return intervals;
}

// A batch over a pool: random q; random K and V exactly where some row of the segment sees them,
// poison elsewhere; table entries of blocks that no row sees are -1.
class AttentionBatch {
 public:
  AttentionBatch(const KvShape& shape, int group, const std::vector<SegmentRows>& segments,
                 uint32_t seed = 1, int dirt = 0xff)
      : shape_(shape), group_(group), kv_(shape, CountBlocks(shape, segments), dirt) {
    const float key_scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
    tables_.resize(segments.size());
    for (size_t s = 0; s < segments.size(); ++s) {
      begins_.push_back(static_cast<int>(visible_begin_.size()));
      std::vector<bool> seen;
      for (const Interval& row : segments[s]) {
        visible_begin_.push_back(row.begin);
        visible_end_.push_back(row.end);
        if (row.end > static_cast<int>(seen.size())) seen.resize(row.end);
        for (int p = row.begin; p < row.end; ++p) seen[p] = true;
      }
      tables_[s].assign(seen.size() / kv_.block_tokens() + 1, -1);
      for (size_t p = 0; p < seen.size(); ++p) {
        if (!seen[p]) continue;
        int32_t& block = tables_[s][p / kv_.block_tokens()];
        if (block < 0) block = kv_.Take();
        const int cell = static_cast<int>(p) % kv_.block_tokens();
        for (int h = 0; h < shape.num_kv_heads; ++h) {
          const uint32_t key = seed + 7919 * static_cast<uint32_t>((s * 65536 + p) * 64 + h);
          kv_.WriteK(block, h, cell, RandomFloats(shape.head_dim, key, key_scale));
          kv_.WriteV(block, h, cell, RandomFloats(shape.head_dim, key + 1));
        }
      }
    }
    begins_.push_back(static_cast<int>(visible_begin_.size()));
    q_ = RandomFloats(size_t(rows()) * q_stride(), seed, 2.0f);
  }

  int rows() const { return static_cast<int>(visible_begin_.size()); }
  int num_segments() const { return static_cast<int>(tables_.size()); }
  int num_q_heads() const { return group_ * shape_.num_kv_heads; }
  int row_values() const { return num_q_heads() * shape_.head_dim; }
  int q_stride() const { return row_values() + 3; }  // q lies in a wider projection
  PagedKv& kv() { return kv_; }
  const PagedKv& kv() const { return kv_; }
  const KvShape& shape() const { return shape_; }
  float* q(int row) { return q_.data() + size_t(row) * q_stride(); }
  const float* q(int row) const { return q_.data() + size_t(row) * q_stride(); }
  int32_t block(int segment, int position) const {
    return tables_[segment][position / kv_.block_tokens()];
  }
  int cell(int position) const { return position % kv_.block_tokens(); }
  Interval visible(int row) const { return {visible_begin_[row], visible_end_[row]}; }

  std::vector<AttentionSegment> Segments() const {
    std::vector<AttentionSegment> segments;
    for (int s = 0; s < num_segments(); ++s) {
      segments.push_back({begins_[s], begins_[s + 1] - begins_[s], tables_[s].data()});
    }
    return segments;
  }

  AttentionArgs Args(std::span<const AttentionSegment> segments, float* out) const {
    return {.q = q_.data(),
            .q_stride = q_stride(),
            .out = out,
            .segments = segments,
            .visible_begin = visible_begin_.data(),
            .visible_end = visible_end_.data(),
            .num_q_heads = num_q_heads(),
            .num_kv_heads = shape_.num_kv_heads,
            .head_dim = shape_.head_dim,
            .kv = kv_.view()};
  }

  // All rows [rows, row_values], by `segments` or by all segments in order. Rows of no segment stay
  // NaN.
  std::vector<float> Run(const Ops& ops, std::span<const AttentionSegment> segments) const {
    std::vector<float> out(size_t(rows()) * row_values(), NAN);
    ops.attention(ops.backend, Args(segments, out.data()));
    return out;
  }
  std::vector<float> Run(const Ops& ops) const { return Run(ops, Segments()); }

 private:
  static int CountBlocks(const KvShape& shape, const std::vector<SegmentRows>& segments) {
    int blocks = 1;
    for (const SegmentRows& rows : segments) {
      int end = 0;
      for (const Interval& row : rows) end = std::max(end, row.end);
      blocks += (end >> shape.log2_block_tokens) + 1;
    }
    return blocks;
  }

  KvShape shape_;
  int group_;
  PagedKv kv_;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<int> begins_;
  std::vector<int32_t> visible_begin_;
  std::vector<int32_t> visible_end_;
  std::vector<float> q_;
};

}  // namespace tandem::kernels
