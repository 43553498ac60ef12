#include "engine/checkpoint_tensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace tandem::engine {
namespace {

using kernels::Bf16;

std::vector<std::string> Dtypes(const WeightItem& item) {
  switch (item.kind) {
    case WeightItem::Kind::kVector:
      return {"BF16", "F32"};
    case WeightItem::Kind::kTokenIds:
      return {"I64", "I32"};
    default:
      return {"BF16"};
  }
}

absl::Status WidenVector(const Tensor& tensor, const std::string& name, float* values) {
  const size_t count = tensor.dtype == "F32" ? tensor.bytes / 4 : tensor.bytes / 2;
  for (size_t i = 0; i < count; ++i) {
    if (tensor.dtype == "F32") {
      std::memcpy(&values[i], tensor.data + i * 4, 4);
    } else {
      Bf16 value;
      std::memcpy(&value, tensor.data + i * 2, 2);
      values[i] = ToFloat(value);
    }
    if (!std::isfinite(values[i])) {
      return absl::InvalidArgumentError(absl::StrFormat("%s: tensor \"%s\": value %d is not finite",
                                                        tensor.file->path(), name, i));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadPermutation(const Tensor& tensor, const std::string& name, int32_t* ids) {
  const int64_t count = tensor.shape[0];
  const auto bad = [&](int64_t at, const std::string& what) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: tensor \"%s\": entry %d %s; it must hold every token id below %d once. A broken "
        "conversion rounds this table or fills it with zeros: use the original checkpoint",
        tensor.file->path(), name, at, what, count));
  };
  std::vector<int64_t> seen(count, -1);  // by id: the entry that holds it
  for (int64_t i = 0; i < count; ++i) {
    int64_t id = 0;
    if (tensor.dtype == "I64") {
      std::memcpy(&id, tensor.data + i * 8, 8);
    } else {
      int32_t narrow = 0;
      std::memcpy(&narrow, tensor.data + i * 4, 4);
      id = narrow;
    }
    if (id < 0 || id >= count) return bad(i, absl::StrFormat("is %d", id));
    if (seen[id] >= 0) return bad(i, absl::StrFormat("is %d, as entry %d", id, seen[id]));
    seen[id] = i;
    ids[i] = static_cast<int32_t>(id);
  }
  return absl::OkStatus();
}

}  // namespace

const Tensor* CheckpointTensors::Get(const std::string& name) const {
  for (const std::string& each : spellings_(name)) {
    const auto found = checkpoint_->tensors.find(each);
    if (found != checkpoint_->tensors.end()) return &found->second;
  }
  return nullptr;
}

absl::StatusOr<const Tensor*> CheckpointTensors::Expect(
    const std::string& name, const std::vector<int64_t>& shape,
    const std::vector<std::string>& dtypes) const {
  const Tensor* tensor = Get(name);
  const std::string shown = spellings_(name).front();
  const std::string shape_text = absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
  if (tensor == nullptr) {
    if (Get(name.substr(0, name.rfind('.')) + ".weight_packed") != nullptr) {
      return absl::UnimplementedError(absl::StrCat(
          directory_, ": tensor \"", shown,
          "\" is stored quantised (weight_packed); only bf16 checkpoints are supported"));
    }
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: tensor \"%s\" %s is missing", directory_, shown, shape_text));
  }
  if (tensor->shape != shape) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: tensor \"%s\" has shape [%s], but config.json asks for %s", tensor->file->path(),
        shown, absl::StrJoin(tensor->shape, ", "), shape_text));
  }
  if (std::find(dtypes.begin(), dtypes.end(), tensor->dtype) == dtypes.end()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: tensor \"%s\" has dtype %s; supported here: %s", tensor->file->path(),
                        shown, tensor->dtype, absl::StrJoin(dtypes, ", ")));
  }
  return tensor;
}

absl::Status CheckpointTensors::Check(const std::vector<WeightItem>& items) const {
  for (const WeightItem& item : items) {
    for (const std::string& name : {item.name, item.up_name}) {
      if (name.empty()) continue;
      const absl::StatusOr<const Tensor*> tensor = Expect(name, item.shape, Dtypes(item));
      if (!tensor.ok()) return tensor.status();
    }
  }
  return absl::OkStatus();
}

std::vector<std::pair<std::string, const Tensor*>> CheckpointTensors::Unclaimed(
    const std::vector<WeightItem>& items, const std::vector<std::string>& others) const {
  std::set<const Tensor*> claimed;
  for (const WeightItem& item : items) {
    claimed.insert(Get(item.name));
    if (!item.up_name.empty()) claimed.insert(Get(item.up_name));
  }
  for (const std::string& name : others) claimed.insert(Get(name));
  std::vector<std::pair<std::string, const Tensor*>> rest;
  for (const auto& [name, tensor] : checkpoint_->tensors) {
    if (!claimed.contains(&tensor)) rest.push_back({name, &tensor});
  }
  return rest;
}

absl::Status UnknownTensor(const std::string& name, const Tensor& tensor) {
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s: tensor \"%s\" belongs to no weight of this model; config.json and weights do not fit "
      "together, or this is a newer architecture",
      tensor.file->path(), name.substr(0, 200)));
}

TensorSource CheckpointSource(const CheckpointTensors& tensors) {
  TensorSource source;
  // `current` is the tensor read last, whose pages are dropped behind us.
  source.rows = [&tensors, current = static_cast<const Tensor*>(nullptr)](
                    const std::string& name, int64_t row_begin, int64_t, int64_t cols,
                    int) mutable {
    const Tensor* tensor = tensors.Get(name);
    if (current != nullptr && current != tensor) current->file->Drop(current->data, current->bytes);
    current = tensor;
    return tensor->data + row_begin * cols * sizeof(Bf16);
  };
  source.vector = [&tensors](const WeightItem& item, float* values) {
    return WidenVector(*tensors.Get(item.name), item.name, values);
  };
  source.token_ids = [&tensors](const WeightItem& item, int32_t* ids) {
    return ReadPermutation(*tensors.Get(item.name), item.name, ids);
  };
  return source;
}

}  // namespace tandem::engine
