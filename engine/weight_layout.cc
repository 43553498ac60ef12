#include "engine/weight_layout.h"

#include "kernels/weight_codes.h"

namespace tandem::engine {

using kernels::Bf16;
using kernels::F16;
using kernels::PackedElements;
using kernels::WeightFormat;
using kernels::WeightView;

namespace {

int GateUpRows(int width) { return static_cast<int>(kernels::PackedTiles(width)) * 32; }

// Matrix `index` of those placed for `item`.
WeightView ViewOf(const WeightItem& item, int out, int in, int64_t index) {
  // Without a base these are numbers, never read.
  const uintptr_t at = reinterpret_cast<uintptr_t>(item.target) + index * item.part_bytes;
  WeightView view = {.out = out, .in = in, .format = item.format};
  if (item.format == WeightFormat::kBf16) {
    view.data = reinterpret_cast<const Bf16*>(at);
  } else {
    view.codes = reinterpret_cast<const std::byte*>(at);
    view.scales = reinterpret_cast<const F16*>(reinterpret_cast<uintptr_t>(item.scales) +
                                               index * item.part_scales * sizeof(F16));
  }
  return view;
}

}  // namespace

int64_t NumElements(const WeightItem& item) {
  int64_t elements = item.kind == WeightItem::Kind::kGate ? 2 : 1;
  for (const int64_t dim : item.shape) elements *= dim;
  return elements;
}

std::byte* WeightLayout::Take(size_t bytes) {
  const uintptr_t at = base_ + used_;
  used_ += (bytes + 63) / 64 * 64;
  return reinterpret_cast<std::byte*>(at);  // never read when the base is null
}

WeightItem& WeightLayout::Add(WeightItem::Kind kind, const std::string& name,
                              std::vector<int64_t> shape, std::byte* target) {
  WeightItem item;
  item.kind = kind;
  item.name = name;
  item.shape = std::move(shape);
  item.target = target;
  items_.push_back(std::move(item));
  return items_.back();
}

WeightView WeightLayout::Place(WeightItem& item, int out, int in, int64_t count) {
  if (item.format == WeightFormat::kBf16) {
    item.part_bytes = PackedElements(out, in) * sizeof(Bf16);
  } else {
    item.part_bytes = kernels::PackedCodeBytes(item.format, out, in);
    item.part_scales = kernels::PackedCodeScales(out, in);
    item.scales = reinterpret_cast<F16*>(Take(item.part_scales * sizeof(F16) * count));
  }
  item.target = Take(item.part_bytes * count);
  return ViewOf(item, out, in, 0);
}

WeightView WeightLayout::Matrix(WeightFormat format, int in,
                                const std::vector<std::pair<std::string, int>>& parts) {
  int out = 0;
  for (const auto& part : parts) out += part.second;
  WeightItem whole = {.format = format};
  const WeightView view = Place(whole, out, in, 1);
  int row = 0;
  for (const auto& [name, rows] : parts) {
    WeightItem& item = Add(WeightItem::Kind::kMatrix, name, {rows, in}, whole.target);
    item.format = format;
    item.scales = whole.scales;
    item.row_begin = row;
    row += rows;
  }
  return view;
}

WeightView WeightLayout::GateUp(WeightFormat format, const std::string& gate, const std::string& up,
                                int width, int in) {
  WeightItem& item = Add(WeightItem::Kind::kGate, gate, {width, in}, nullptr);
  item.up_name = up;
  item.format = format;
  return Place(item, GateUpRows(width), in, 1);
}

std::vector<WeightView> WeightLayout::Experts(WeightItem& item, int out, int in) {
  const int64_t experts = item.shape[0];
  Place(item, out, in, experts);
  std::vector<WeightView> views;
  for (int64_t e = 0; e < experts; ++e) views.push_back(ViewOf(item, out, in, e));
  return views;
}

std::vector<WeightView> WeightLayout::ExpertGateUp(WeightFormat format, const std::string& name,
                                                   int experts, int width, int in) {
  WeightItem& item =
      Add(WeightItem::Kind::kExpertGateUp, name, {experts, int64_t{2} * width, in}, nullptr);
  item.format = format;
  return Experts(item, GateUpRows(width), in);
}

std::vector<WeightView> WeightLayout::ExpertDown(WeightFormat format, const std::string& name,
                                                 int experts, int out, int width) {
  WeightItem& item = Add(WeightItem::Kind::kExpertDown, name, {experts, out, width}, nullptr);
  item.format = format;
  return Experts(item, out, width);
}

WeightView WeightLayout::Clusters(const std::string& name, int rows, int in, int cluster_rows) {
  WeightItem& item = Add(WeightItem::Kind::kClusters, name, {rows, in}, nullptr);
  item.cluster_rows = cluster_rows;
  return Place(item, cluster_rows, in, rows / cluster_rows);
}

const float* WeightLayout::Vector(const std::string& name, int size, float scale) {
  WeightItem& item = Add(WeightItem::Kind::kVector, name, {size}, Take(size * sizeof(float)));
  item.scale = scale;
  return reinterpret_cast<const float*>(item.target);
}

const int32_t* WeightLayout::TokenIds(const std::string& name, int size) {
  return reinterpret_cast<const int32_t*>(
      Add(WeightItem::Kind::kTokenIds, name, {size}, Take(size * sizeof(int32_t))).target);
}

}  // namespace tandem::engine
