// The tensors of a safetensors checkpoint, memory-mapped: names, shapes, bytes.
//
// In        model.safetensors, or shards with model.safetensors.index.json.
// Promise   Open has checked every header against its file: ranges inside the file, sizes that fit
//           shape and dtype, no overlap, no name twice, every indexed tensor in its shard. A
//           damaged file gives InvalidArgument with file and tensor; nothing is read out of bounds
//           later.
// Not here  which tensors a model needs (checkpoint_tensors.h); where they go (weight_layout.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::engine {

// A read-only mapping of a whole file.
class MappedFile {
 public:
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  // Lets the kernel drop the pages of a range that will not be read again soon.
  void Drop(const std::byte* begin, size_t bytes) const;

 private:
  MappedFile(std::string path, const std::byte* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}
  std::string path_;
  const std::byte* data_;
  size_t size_;
};

struct Tensor {
  const MappedFile* file = nullptr;
  std::string dtype;  // as written: "BF16", "F32", ...
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;  // row-major, little-endian, any alignment
  size_t bytes = 0;
};

struct Checkpoint {
  std::vector<std::unique_ptr<MappedFile>> files;
  std::map<std::string, Tensor, std::less<>> tensors;
};

absl::StatusOr<Checkpoint> OpenCheckpoint(const std::string& directory);

// One file's header into `tensors`; OpenCheckpoint calls it per shard.
absl::Status ReadSafetensors(const MappedFile& file,
                             std::map<std::string, Tensor, std::less<>>& tensors);

}  // namespace tandem::engine
