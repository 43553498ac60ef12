#include "engine/weight_layout.h"

namespace tandem::engine {

using kernels::Bf16;
using kernels::PackedElements;
using kernels::WeightView;

namespace {

int GateUpRows(int width) { return static_cast<int>(kernels::PackedTiles(width)) * 32; }

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

WeightView WeightLayout::Matrix(int in, const std::vector<std::pair<std::string, int>>& parts) {
  int out = 0;
  for (const auto& part : parts) out += part.second;
  std::byte* target = Take(PackedElements(out, in) * sizeof(Bf16));
  int row = 0;
  for (const auto& [name, rows] : parts) {
    Add(WeightItem::Kind::kMatrix, name, {rows, in}, target).row_begin = row;
    row += rows;
  }
  return {reinterpret_cast<const Bf16*>(target), out, in};
}

WeightView WeightLayout::GateUp(const std::string& gate, const std::string& up, int width, int in) {
  const int out = GateUpRows(width);
  std::byte* target = Take(PackedElements(out, in) * sizeof(Bf16));
  Add(WeightItem::Kind::kGate, gate, {width, in}, target).up_name = up;
  return {reinterpret_cast<const Bf16*>(target), out, in};
}

std::vector<WeightView> WeightLayout::Experts(WeightItem& item, int out, int in) {
  const int64_t experts = item.shape[0];
  item.part_bytes = PackedElements(out, in) * sizeof(Bf16);
  item.target = Take(item.part_bytes * experts);
  const uintptr_t first = reinterpret_cast<uintptr_t>(item.target);
  std::vector<WeightView> views;
  for (int64_t e = 0; e < experts; ++e) {
    views.push_back({reinterpret_cast<const Bf16*>(first + e * item.part_bytes), out, in});
  }
  return views;
}

std::vector<WeightView> WeightLayout::ExpertGateUp(const std::string& name, int experts, int width,
                                                   int in) {
  return Experts(
      Add(WeightItem::Kind::kExpertGateUp, name, {experts, int64_t{2} * width, in}, nullptr),
      GateUpRows(width), in);
}

std::vector<WeightView> WeightLayout::ExpertDown(const std::string& name, int experts, int out,
                                                 int width) {
  return Experts(Add(WeightItem::Kind::kExpertDown, name, {experts, out, width}, nullptr), out,
                 width);
}

WeightView WeightLayout::Clusters(const std::string& name, int rows, int in, int cluster_rows) {
  const size_t bytes = PackedElements(cluster_rows, in) * sizeof(Bf16);
  WeightItem& item = Add(WeightItem::Kind::kClusters, name, {rows, in},
                         Take(bytes * static_cast<size_t>(rows / cluster_rows)));
  item.part_bytes = bytes;
  item.cluster_rows = cluster_rows;
  return {reinterpret_cast<const Bf16*>(item.target), cluster_rows, in};
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
