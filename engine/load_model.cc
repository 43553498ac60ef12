#include "engine/load_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace tandem::engine {
namespace {

using kernels::Bf16;

constexpr size_t kChunkBytes = size_t{32} << 20;  // read and packed at once

// Where the values of a tensor come from. Rows are row-major bf16 and stay valid until the next
// call with the same `buffer` (0 or 1).
struct TensorSource {
  std::function<absl::Status(const WeightItem& item)> check;
  std::function<const std::byte*(const std::string& name, int64_t row_begin, int64_t rows,
                                 int64_t cols, int buffer)>
      rows;
  std::function<absl::Status(const WeightItem& item, float* values)> vector;
};

size_t ItemBytes(const WeightItem& item) {
  size_t elements = item.kind == WeightItem::Kind::kGate ? 2 : 1;
  for (const int64_t dim : item.shape) elements *= dim;
  return elements * sizeof(Bf16);
}

// Runs `work(begin, end)` over [0, count) on the backend's threads.
void ParallelFor(kernels::CpuBackend& backend, size_t count,
                 const std::function<void(size_t begin, size_t end)>& work) {
  struct Context {
    size_t count;
    const std::function<void(size_t, size_t)>& work;
  } context{count, work};
  kernels::RunOnTeam(
      backend,
      [](void* opaque, int thread, int threads) {
        const Context& c = *static_cast<Context*>(opaque);
        c.work(c.count * thread / threads, c.count * (thread + 1) / threads);
      },
      &context);
}

// Fills one item, a chunk of rows at a time.
absl::Status FillItem(const WeightItem& item, const TensorSource& source,
                      kernels::CpuBackend& backend, const std::function<void(size_t)>& done) {
  Bf16* target = reinterpret_cast<Bf16*>(item.target);
  const int64_t cols = item.shape.back();
  const int64_t rows = item.shape.size() >= 2 ? item.shape[item.shape.size() - 2] : 1;
  // A multiple of 16, so that a chunk of gate rows starts at a tile.
  const int64_t chunk = std::max<int64_t>(16, kChunkBytes / (cols * sizeof(Bf16)) / 16 * 16);
  switch (item.kind) {
    case WeightItem::Kind::kVector: {
      float* values = reinterpret_cast<float*>(item.target);
      if (absl::Status s = source.vector(item, values); !s.ok()) return s;
      for (int64_t i = 0; i < cols; ++i) values[i] *= item.scale;
      break;
    }
    case WeightItem::Kind::kMatrix:
      for (int64_t row = 0; row < rows; row += chunk) {
        const int count = static_cast<int>(std::min(chunk, rows - row));
        kernels::PackRows(backend, source.rows(item.name, row, count, cols, 0), count,
                          static_cast<int>(cols), static_cast<int>(item.row_begin + row), target);
        done(count * cols * sizeof(Bf16));
      }
      return absl::OkStatus();
    case WeightItem::Kind::kGate:
      for (int64_t row = 0; row < rows; row += chunk) {
        const int count = static_cast<int>(std::min(chunk, rows - row));
        const std::byte* gate = source.rows(item.name, row, count, cols, 0);
        const std::byte* up = source.rows(item.up_name, row, count, cols, 1);
        kernels::PackGateUp(backend, gate, up, count, static_cast<int>(cols),
                            target + kernels::PackedElements(static_cast<int>(2 * row), cols));
        done(2 * count * cols * sizeof(Bf16));
      }
      return absl::OkStatus();
    case WeightItem::Kind::kExpertGateUp:
    case WeightItem::Kind::kExpertDown:
      for (int64_t e = 0; e < item.shape[0]; ++e) {
        Bf16* expert = reinterpret_cast<Bf16*>(item.target + e * item.expert_bytes);
        const std::byte* data = source.rows(item.name, e * rows, rows, cols, 0);
        if (item.kind == WeightItem::Kind::kExpertDown) {
          kernels::PackRows(backend, data, static_cast<int>(rows), static_cast<int>(cols), 0,
                            expert);
        } else {
          kernels::PackGateUp(backend, data, data + rows / 2 * cols * sizeof(Bf16),
                              static_cast<int>(rows / 2), static_cast<int>(cols), expert);
        }
        done(rows * cols * sizeof(Bf16));
      }
      return absl::OkStatus();
  }
  done(ItemBytes(item));
  return absl::OkStatus();
}

size_t CheckpointBytes(const std::vector<WeightItem>& items) {
  size_t bytes = 0;
  for (const WeightItem& item : items) bytes += ItemBytes(item);
  return bytes;
}

// Checks every item, then fills all; `filled` of `total` bytes is what progress is told.
absl::Status FillWeights(const std::vector<WeightItem>& items, const TensorSource& source,
                         kernels::CpuBackend& backend, const LoadProgress& progress, size_t& filled,
                         size_t total) {
  for (const WeightItem& item : items) {
    if (absl::Status s = source.check(item); !s.ok()) return s;
  }
  if (progress) progress(filled, total);
  for (const WeightItem& item : items) {
    const absl::Status status = FillItem(item, source, backend, [&](size_t bytes) {
      filled += bytes;
      if (progress) progress(filled, total);
    });
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<Model> Prepare(const ModelConfig& config, bool exact_embed_scale,
                              std::vector<WeightItem>& items) {
  Model model;
  model.config = config;
  const float scale = std::sqrt(static_cast<float>(config.hidden));
  model.embed_scale = exact_embed_scale ? scale : ToFloat(kernels::ToBf16(scale));
  absl::StatusOr<kernels::HugeMemory> memory = kernels::HugeMemory::Allocate(WeightBytes(config));
  if (!memory.ok()) return memory.status();
  model.memory = *std::move(memory);
  LayOutWeights(model.config, model.memory.data(), model.weights, items);
  return model;
}

// ---- checkpoints ----

// The tensors of one checkpoint by their names behind the text prefix.
class CheckpointTensors {
 public:
  static absl::StatusOr<CheckpointTensors> Find(const Checkpoint& checkpoint,
                                                const std::string& directory) {
    CheckpointTensors result(checkpoint, directory);
    for (const char* prefix :
         {"model.language_model.", "language_model.model.", "language_model.", "model."}) {
      if (checkpoint.tensors.contains(absl::StrCat(prefix, "embed_tokens.weight"))) {
        result.prefix_ = prefix;
        return result;
      }
    }
    return absl::InvalidArgumentError(absl::StrCat(
        directory,
        ": no tensor \"model.language_model.embed_tokens.weight\" (nor under the prefixes "
        "language_model.model., language_model., model.); not a Gemma 4 text model"));
  }

  const Tensor* Get(const std::string& name) const {
    std::vector<std::string> names = {prefix_ + name};
    if (name == "lm_head.weight") names = {name, "language_model.lm_head.weight"};
    // Pre-release checkpoints keep the experts and their scale under "moe.".
    for (const char* released : {".experts.", ".router.per_expert_scale"}) {
      if (const size_t at = name.find(released); at != std::string::npos) {
        const std::string_view behind = released == std::string_view(".experts.")
                                            ? std::string_view(name).substr(at + 9)
                                            : std::string_view("per_expert_scale");
        names.push_back(absl::StrCat(prefix_, name.substr(0, at), ".moe.", std::string(behind)));
      }
    }
    for (const std::string& each : names) {
      const auto found = checkpoint_->tensors.find(each);
      if (found != checkpoint_->tensors.end()) return &found->second;
    }
    return nullptr;
  }

  // The tensor, if it has one of `dtypes` and `shape`.
  absl::StatusOr<const Tensor*> Expect(const std::string& name, const std::vector<int64_t>& shape,
                                       const std::vector<std::string>& dtypes) const {
    const Tensor* tensor = Get(name);
    const std::string shape_text = absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
    if (tensor == nullptr) {
      if (Get(name.substr(0, name.rfind('.')) + ".weight_packed") != nullptr) {
        return absl::UnimplementedError(absl::StrCat(
            directory_, ": tensor \"", prefix_, name,
            "\" is stored quantised (weight_packed); only bf16 checkpoints are supported"));
      }
      return absl::InvalidArgumentError(absl::StrFormat("%s: tensor \"%s%s\" %s is missing",
                                                        directory_, prefix_, name, shape_text));
    }
    if (tensor->shape != shape) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: tensor \"%s%s\" has shape [%s], but config.json asks for %s", tensor->file->path(),
          prefix_, name, absl::StrJoin(tensor->shape, ", "), shape_text));
    }
    if (std::find(dtypes.begin(), dtypes.end(), tensor->dtype) == dtypes.end()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: tensor \"%s%s\" has dtype %s; supported here: %s", tensor->file->path(), prefix_,
          name, tensor->dtype, absl::StrJoin(dtypes, ", ")));
    }
    return tensor;
  }

  absl::Status CheckItem(const WeightItem& item) const {
    const bool vector = item.kind == WeightItem::Kind::kVector;
    const std::vector<std::string> dtypes =
        vector ? std::vector<std::string>{"BF16", "F32"} : std::vector<std::string>{"BF16"};
    for (const std::string& name : {item.name, item.up_name}) {
      if (name.empty()) continue;
      absl::StatusOr<const Tensor*> tensor = Expect(name, item.shape, dtypes);
      if (!tensor.ok()) return tensor.status();
    }
    return absl::OkStatus();
  }

  // The per-layer embedding table of a model that has one.
  absl::StatusOr<const Tensor*> PleTable(const ModelConfig& config) const {
    return Expect("embed_tokens_per_layer.weight",
                  {config.ple_vocab, int64_t{config.num_layers()} * config.ple_width}, {"BF16"});
  }

  // Everything under the text prefix must be known (gemma4.md 3.1).
  absl::Status CheckNothingUnknown(const ModelConfig& config,
                                   const std::vector<WeightItem>& items) const {
    std::set<const Tensor*> known;
    for (const WeightItem& item : items) {
      known.insert(Get(item.name));
      if (!item.up_name.empty()) known.insert(Get(item.up_name));
    }
    if (config.ple_width > 0) known.insert(Get("embed_tokens_per_layer.weight"));
    for (int i = config.first_shared; i < config.num_layers(); ++i) {  // dead weights
      for (const char* dead : {"k_proj.weight", "v_proj.weight", "k_norm.weight"}) {
        known.insert(Get(absl::StrCat("layers.", i, ".self_attn.", dead)));
      }
    }
    known.insert(Get("lm_head.weight"));  // equals the embedding when tied
    for (const auto& [name, tensor] : checkpoint_->tensors) {
      if (!absl::StartsWith(name, prefix_) || known.contains(&tensor) || IsMultimodal(name))
        continue;
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: tensor \"%s\" belongs to no weight of this model; config.json and "
                          "weights do not fit "
                          "together, or this is a newer architecture",
                          tensor.file->path(), name.substr(0, 200)));
    }
    return absl::OkStatus();
  }

 private:
  CheckpointTensors(const Checkpoint& checkpoint, std::string directory)
      : checkpoint_(&checkpoint), directory_(std::move(directory)) {}

  static bool IsMultimodal(const std::string& name) {
    for (const char* prefix : {"model.vision_tower.", "model.audio_tower.", "model.embed_vision.",
                               "model.embed_audio.", "model.vision_embedder."}) {
      if (absl::StartsWith(name, prefix)) return true;
    }
    return false;
  }

  const Checkpoint* checkpoint_;
  std::string directory_;
  std::string prefix_;
};

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

// ---- dummy weights ----

uint64_t Mix(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t HashName(const std::string& name, uint64_t seed) {
  uint64_t hash = Mix(seed);
  for (const char c : name) hash = Mix(hash ^ static_cast<unsigned char>(c));
  return hash;
}

// `count` values uniform in +-amplitude, from element `first` of the tensor with this key on.
void FillDummy(uint64_t key, size_t first, size_t count, float amplitude, Bf16* values) {
  const uint32_t low = static_cast<uint32_t>(key);
  const uint32_t high = static_cast<uint32_t>(key >> 32);
  for (size_t i = 0; i < count; ++i) {  // 32-bit integer mixing, which compilers vectorise
    const uint64_t element = first + i;
    uint32_t x = static_cast<uint32_t>(element) * 0x9e3779b1u + low +
                 static_cast<uint32_t>(element >> 32) * 0x85ebca77u;
    x = (x ^ (x >> 15)) * 0x2c1b3c6du;
    x = (x ^ (x >> 12) ^ high) * 0x297a2d39u;
    x ^= x >> 15;
    const float value = static_cast<float>(static_cast<int32_t>(x)) * (amplitude / 2147483648.0f);
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    values[i] = {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16)};
  }
}

}  // namespace

absl::StatusOr<Model> LoadCheckpoint(const std::string& directory, const LoadOptions& options,
                                     kernels::CpuBackend& backend, const LoadProgress& progress) {
  absl::StatusOr<ModelConfig> config = ReadModelConfig(directory);
  if (!config.ok()) return config.status();
  absl::StatusOr<Checkpoint> checkpoint = OpenCheckpoint(directory);
  if (!checkpoint.ok()) return checkpoint.status();
  absl::StatusOr<CheckpointTensors> tensors = CheckpointTensors::Find(*checkpoint, directory);
  if (!tensors.ok()) return tensors.status();

  std::vector<WeightItem> items;
  absl::StatusOr<Model> model = Prepare(*config, options.exact_embed_scale, items);
  if (!model.ok()) return model.status();
  if (absl::Status s = tensors->CheckNothingUnknown(*config, items); !s.ok()) return s;

  const MappedFile* ple_file = nullptr;
  if (config->ple_width > 0) {
    absl::StatusOr<const Tensor*> table = tensors->PleTable(*config);
    if (!table.ok()) return table.status();
    // Rows are gathered a few per step: the table stays in its file, backed by the page cache.
    model->weights.ple_table = reinterpret_cast<const Bf16*>((*table)->data);
    ple_file = (*table)->file;
  }

  TensorSource source;
  source.check = [&](const WeightItem& item) { return tensors->CheckItem(item); };
  const Tensor* current = nullptr;  // the tensor read last, whose pages are dropped behind us
  source.rows = [&](const std::string& name, int64_t row_begin, int64_t, int64_t cols, int) {
    const Tensor* tensor = tensors->Get(name);
    if (current != nullptr && current != tensor) current->file->Drop(current->data, current->bytes);
    current = tensor;
    return tensor->data + row_begin * cols * sizeof(Bf16);
  };
  source.vector = [&](const WeightItem& item, float* values) {
    return WidenVector(*tensors->Get(item.name), item.name, values);
  };
  size_t filled = 0;
  const size_t total = CheckpointBytes(items);
  if (absl::Status s = FillWeights(items, source, backend, progress, filled, total); !s.ok()) {
    return s;
  }

  model->checkpoint_tensors = checkpoint->tensors.size();
  for (std::unique_ptr<MappedFile>& file : checkpoint->files) {
    if (file.get() == ple_file) model->files.push_back(std::move(file));
  }
  return model;
}

absl::Status CheckCheckpoint(const Checkpoint& checkpoint, const ModelConfig& config,
                             const std::string& directory) {
  absl::StatusOr<CheckpointTensors> tensors = CheckpointTensors::Find(checkpoint, directory);
  if (!tensors.ok()) return tensors.status();
  Weights weights;
  std::vector<WeightItem> items;
  LayOutWeights(config, nullptr, weights, items);
  if (absl::Status s = tensors->CheckNothingUnknown(config, items); !s.ok()) return s;
  if (config.ple_width > 0) {
    if (absl::StatusOr<const Tensor*> table = tensors->PleTable(config); !table.ok()) {
      return table.status();
    }
  }
  for (const WeightItem& item : items) {
    if (absl::Status s = tensors->CheckItem(item); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::StatusOr<Model> LoadDummy(const ModelConfig& config, uint64_t seed,
                                kernels::CpuBackend& backend, const LoadProgress& progress) {
  std::vector<WeightItem> items;
  absl::StatusOr<Model> model = Prepare(config, /*exact_embed_scale=*/false, items);
  if (!model.ok()) return model.status();

  std::vector<Bf16> buffers[2];
  const auto fill = [&](uint64_t key, size_t first, size_t count, float amplitude, Bf16* out) {
    ParallelFor(backend, count, [&](size_t begin, size_t end) {
      FillDummy(key, first + begin, end - begin, amplitude, out + begin);
    });
  };
  TensorSource source;
  source.check = [](const WeightItem&) { return absl::OkStatus(); };
  source.rows = [&](const std::string& name, int64_t row_begin, int64_t rows, int64_t cols,
                    int buffer) {
    std::vector<Bf16>& out = buffers[buffer];
    if (out.size() < static_cast<size_t>(rows * cols)) out.resize(rows * cols);
    // Unit variance in, about unit variance out; the embedding is scaled by sqrt(H) instead.
    const float amplitude = std::sqrt(3.0f / static_cast<float>(cols));
    fill(HashName(name, seed), row_begin * cols, rows * cols, amplitude, out.data());
    return reinterpret_cast<const std::byte*>(out.data());
  };
  source.vector = [](const WeightItem& item, float* values) {
    std::fill_n(values, item.shape[0], 1.0f);
    return absl::OkStatus();
  };
  const size_t ple_bytes = PleTableBytes(config);
  size_t filled = 0;
  const size_t total = CheckpointBytes(items) + ple_bytes;
  if (absl::Status s = FillWeights(items, source, backend, progress, filled, total); !s.ok()) {
    return s;
  }

  if (ple_bytes > 0) {
    absl::StatusOr<kernels::HugeMemory> memory = kernels::HugeMemory::Allocate(ple_bytes);
    if (!memory.ok()) return memory.status();
    model->ple_memory = *std::move(memory);
    Bf16* table = reinterpret_cast<Bf16*>(model->ple_memory.data());
    const size_t count = ple_bytes / sizeof(Bf16);
    const size_t chunk = kChunkBytes / sizeof(Bf16);
    for (size_t first = 0; first < count; first += chunk) {
      const size_t size = std::min(chunk, count - first);
      fill(HashName("embed_tokens_per_layer.weight", seed), first, size,
           std::sqrt(3.0f / static_cast<float>(config.ple_width)), table + first);
      filled += size * sizeof(Bf16);
      if (progress) progress(filled, total);
    }
    model->weights.ple_table = table;
  }
  return model;
}

}  // namespace tandem::engine
