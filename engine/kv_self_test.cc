#include "engine/kv_self_test.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "engine/backend_values.h"
#include "engine/buffer_cursor.h"
#include "kernels/kv_row.h"
#include "kvcache/block_store.h"
#include "kvcache/kv_formats.h"

namespace tandem::engine {
namespace {

using kernels::KvFormat;

// Of one stored row: the bits of its scale, and the CRC-32 of its codes.
struct RowMark {
  uint16_t scale = 0;
  uint32_t crc = 0;
  bool operator==(const RowMark&) const = default;
};

struct Golden {
  KvFormat format;
  int head_dim;
  RowMark vector;  // x_i = ((37 i) mod 101 - 50) / 16
  RowMark ones;    // crc 0: not known
};

constexpr std::array<Golden, 8> kGolden = {{
    {KvFormat::kQ8, 256, {0x4544, 0x4132da81}, {0x420c, 0xe01d7fbe}},
    {KvFormat::kTurbo4, 256, {0x419c, 0x63c33cc0}, {0x3e41, 0x762a391a}},
    {KvFormat::kTurbo3, 256, {0x4097, 0x29bf99f2}, {0x3d26, 0xbfa80fe4}},
    {KvFormat::kTurbo2, 256, {0x3e8a, 0x9878719f}, {0x3a6c, 0x8a857a0b}},
    {KvFormat::kQ8, 512, {0x451f, 0x3616c9fa}, {}},
    {KvFormat::kTurbo4, 512, {0x418e, 0x0c7ebbb9}, {}},
    {KvFormat::kTurbo3, 512, {0x40a2, 0x481cf27d}, {}},
    {KvFormat::kTurbo2, 512, {0x3e5a, 0xf51072ec}, {}},
}};

// CRC-32, reflected 0xedb88320.
uint32_t Crc32(std::span<const std::byte> bytes, uint32_t crc) {
  crc = ~crc;
  for (const std::byte byte : bytes) {
    crc ^= static_cast<uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0xedb88320u & -(crc & 1));
  }
  return ~crc;
}

RowMark MarkOf(const kernels::KvRow& row, KvFormat format, int head_dim) {
  const size_t bytes = kernels::KvRowBytes(format, head_dim);
  RowMark mark = {.scale = row.scale->bits};
  if (row.high_bits == nullptr) {
    mark.crc = Crc32({row.codes, bytes}, 0);
  } else {
    mark.crc = Crc32({row.codes, size_t(head_dim) / 4}, 0);
    mark.crc = Crc32({row.high_bits, size_t(head_dim) / 8}, mark.crc);
  }
  return mark;
}

absl::Status Compare(const Golden& golden, const char* side, const RowMark& found,
                     const RowMark& expected, const kernels::Ops& ops) {
  if (found == expected) return absl::OkStatus();
  return absl::InternalError(absl::StrFormat(
      "%s stores %s in %s of head size %d wrongly: scale %04x and CRC %08x instead of %04x and "
      "%08x; this build or this machine can not be trusted, try --cpu-isa ref",
      ops.name, side, std::string(kvcache::KvFormatName(golden.format)), golden.head_dim,
      found.scale, found.crc, expected.scale, expected.crc));
}

absl::Status Try(const Golden& golden, const kernels::Ops& ops) {
  const int dim = golden.head_dim;
  absl::StatusOr<kvcache::GroupLayout> layout = kvcache::MakeGroupLayout(
      16, {{.num_kv_heads = 1, .head_dim = dim, .k = golden.format, .v = golden.format}});
  if (!layout.ok()) return layout.status();
  absl::StatusOr<kvcache::BlockStore> store =
      kvcache::BlockStore::Create(*std::move(layout), 1, ops.memory);
  if (!store.ok()) return store.status();
  const std::vector<float> ones(2 * size_t(dim), 1.0f);
  std::vector<float> vector(dim);
  for (int i = 0; i < dim; ++i) vector[i] = static_cast<float>((37 * i) % 101 - 50) / 16.0f;
  const int32_t cell = 1;
  BufferCursor size(nullptr);
  size.Floats(ones.size());
  size.Floats(vector.size());
  size.Ints(1);
  absl::StatusOr<kernels::Memory> memory = ops.memory.Allocate(size.used_bytes());
  if (!memory.ok()) return memory.status();
  BufferCursor cursor(memory->data());
  float* const qkv = cursor.Floats(ones.size());
  float* const norm = cursor.Floats(vector.size());
  int32_t* const cells = cursor.Ints(1);
  WriteFloats(ops, ones, qkv);
  WriteFloats(ops, vector, norm);
  ops.write(ops.backend, cells, &cell, sizeof cell);
  kernels::QkvPostArgs args;
  args.qkv = qkv;
  args.stride = 2 * dim;
  args.rows = 1;
  args.num_kv_heads = 1;
  args.head_dim = dim;
  args.k_norm = norm;
  args.kv = store->View(0);
  args.cells = cells;
  ops.qkv_post(ops.backend, args);
  args.kv.base =
      static_cast<std::byte*>(ops.fetch(ops.backend, args.kv.base, store->layout().block_bytes));
  if (absl::Status s = ops.status(ops.backend); !s.ok()) return s;

  const RowMark k = MarkOf(kernels::KRowAt(args.kv, 0, 0, cell, dim), golden.format, dim);
  if (absl::Status s = Compare(golden, "keys", k, golden.vector, ops); !s.ok()) return s;
  if (golden.ones.crc == 0) return absl::OkStatus();
  const RowMark v = MarkOf(kernels::VRowAt(args.kv, 0, 0, cell, dim), golden.format, dim);
  return Compare(golden, "values", v, golden.ones, ops);
}

}  // namespace

absl::Status TryKvEncoder(std::span<const kvcache::LayerKv> layers, const kernels::Ops& ops) {
  for (const Golden& golden : kGolden) {
    for (const kvcache::LayerKv& layer : layers) {
      if (layer.head_dim != golden.head_dim) continue;
      if (layer.k != golden.format && layer.v != golden.format) continue;
      if (absl::Status s = Try(golden, ops); !s.ok()) return s;
      break;
    }
  }
  return absl::OkStatus();
}

}  // namespace tandem::engine
