#include "engine/checkpoint.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/config_reader.h"

namespace tandem::engine {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100u << 20;  // the format's own limit
constexpr size_t kMaxRank = 8;

// Bytes of one element, 0 for a dtype that is not known.
size_t ElementBytes(std::string_view dtype) {
  if (dtype == "BOOL" || dtype == "U8" || dtype == "I8" || dtype == "F8_E4M3" ||
      dtype == "F8_E5M2") {
    return 1;
  }
  if (dtype == "BF16" || dtype == "F16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
  return 0;
}

absl::Status Damaged(const MappedFile& file, std::string_view tensor, std::string_view what) {
  std::string where = file.path();
  if (!tensor.empty()) {
    absl::StrAppend(&where, ": tensor \"", std::string(tensor.substr(0, 200)), "\"");
  }
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", std::string(what)));
}

// Checks one header entry and fills `tensor`.
absl::Status ReadEntry(const MappedFile& file, const std::string& name, const Json& entry,
                       uint64_t data_begin, Tensor& tensor) {
  if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string() ||
      !entry.contains("shape") || !entry["shape"].is_array() || !entry.contains("data_offsets") ||
      !entry["data_offsets"].is_array() || entry["data_offsets"].size() != 2) {
    return Damaged(file, name, "the header entry needs dtype, shape and two data_offsets");
  }
  tensor.file = &file;
  tensor.dtype = entry["dtype"].get<std::string>();
  const size_t element_bytes = ElementBytes(tensor.dtype);
  if (element_bytes == 0) {
    return Damaged(file, name,
                   absl::StrCat("dtype \"", tensor.dtype.substr(0, 40), "\" is not known"));
  }
  if (entry["shape"].size() > kMaxRank) return Damaged(file, name, "has more than 8 dimensions");
  uint64_t bytes = element_bytes;
  for (const Json& dim : entry["shape"]) {
    if (!dim.is_number_unsigned() || dim.get<uint64_t>() > (uint64_t{1} << 40)) {
      return Damaged(file, name, "has a dimension that is no size");
    }
    const uint64_t value = dim.get<uint64_t>();
    tensor.shape.push_back(static_cast<int64_t>(value));
    if (value != 0 && bytes > (uint64_t{1} << 62) / value) {
      return Damaged(file, name, "is larger than any file");
    }
    bytes *= value;
  }
  const Json& begin_json = entry["data_offsets"][0];
  const Json& end_json = entry["data_offsets"][1];
  if (!begin_json.is_number_unsigned() || !end_json.is_number_unsigned()) {
    return Damaged(file, name, "has data_offsets that are no sizes");
  }
  const uint64_t begin = begin_json.get<uint64_t>();
  const uint64_t end = end_json.get<uint64_t>();
  const uint64_t available = file.size() - data_begin;
  if (begin > end || end > available) {
    return Damaged(
        file, name,
        absl::StrFormat("lies at bytes %d..%d of the data, which has %d; the file is cut "
                        "off or damaged",
                        begin, end, available));
  }
  if (end - begin != bytes) {
    return Damaged(
        file, name,
        absl::StrFormat("has %d bytes, but its shape and dtype need %d", end - begin, bytes));
  }
  tensor.data = file.data() + data_begin + begin;
  tensor.bytes = bytes;
  return absl::OkStatus();
}

// Opens every shard that the index names and checks that each tensor is where the index says.
absl::Status OpenShards(const std::string& directory, const std::string& index_path,
                        Checkpoint& checkpoint) {
  absl::StatusOr<std::string> text = ReadTextFile(index_path);
  if (!text.ok()) return text.status();
  const Json index = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (index.is_discarded() || !index.is_object() || !index.contains("weight_map") ||
      !index["weight_map"].is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(index_path, ": not a JSON object with a weight_map (cut off?)"));
  }
  std::set<std::string> shards;
  for (const auto& [name, shard] : index["weight_map"].items()) {
    if (!shard.is_string() || shard.get<std::string>().find('/') != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: weight_map[\"%s\"] is not a file name in this directory", index_path,
                          name.substr(0, 200)));
    }
    shards.insert(shard.get<std::string>());
  }
  for (const std::string& shard : shards) {
    absl::StatusOr<std::unique_ptr<MappedFile>> file = MappedFile::Open(directory + "/" + shard);
    if (!file.ok()) return file.status();
    if (absl::Status s = ReadSafetensors(**file, checkpoint.tensors); !s.ok()) return s;
    checkpoint.files.push_back(*std::move(file));
  }
  for (const auto& [name, shard] : index["weight_map"].items()) {
    const auto found = checkpoint.tensors.find(name);
    const std::string expected = directory + "/" + shard.get<std::string>();
    if (found == checkpoint.tensors.end() || found->second.file->path() != expected) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: tensor \"%s\" is missing, although %s lists it there", expected,
                          name.substr(0, 200), index_path));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return absl::NotFoundError(absl::StrCat(path, " can not be opened: ", strerror(errno)));
  }
  struct stat info {};
  const bool regular = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  if (!regular || info.st_size == 0) {
    close(fd);
    return absl::InvalidArgumentError(
        absl::StrCat(path, regular ? " is empty" : " is not a regular file"));
  }
  const size_t size = static_cast<size_t>(info.st_size);
  void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%s (%d bytes) can not be mapped: %s", path, size, strerror(errno)));
  }
  return std::unique_ptr<MappedFile>(
      new MappedFile(path, static_cast<const std::byte*>(data), size));
}

MappedFile::~MappedFile() { munmap(const_cast<std::byte*>(data_), size_); }

void MappedFile::Drop(const std::byte* begin, size_t bytes) const {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t from = (reinterpret_cast<uintptr_t>(begin) + page - 1) / page * page;
  const uintptr_t to = reinterpret_cast<uintptr_t>(begin + bytes) / page * page;
  if (from < to) madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
}

absl::Status ReadSafetensors(const MappedFile& file,
                             std::map<std::string, Tensor, std::less<>>& tensors) {
  if (file.size() < 8) return Damaged(file, "", "too short for a safetensors header");
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), 8);
  if (header_bytes > kMaxHeaderBytes || header_bytes > file.size() - 8) {
    return Damaged(
        file, "",
        absl::StrFormat("the header claims %d bytes, but the file has %d in all; it is cut "
                        "off or not a safetensors file",
                        header_bytes, file.size()));
  }
  const char* text = reinterpret_cast<const char*>(file.data()) + 8;
  const Json header = Json::parse(text, text + header_bytes, nullptr, /*allow_exceptions=*/false);
  if (header.is_discarded() || !header.is_object()) {
    return Damaged(file, "", "the header is not a JSON object");
  }
  std::vector<std::pair<const std::byte*, const std::string*>> starts;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    Tensor tensor;
    if (absl::Status s = ReadEntry(file, name, entry, 8 + header_bytes, tensor); !s.ok()) return s;
    const auto [place, inserted] = tensors.emplace(name, std::move(tensor));
    if (!inserted) {
      return Damaged(file, name, absl::StrCat("is also in ", place->second.file->path()));
    }
    if (place->second.bytes > 0) starts.push_back({place->second.data, &place->first});
  }
  std::sort(starts.begin(), starts.end());
  for (size_t i = 1; i < starts.size(); ++i) {
    const Tensor& before = tensors.find(*starts[i - 1].second)->second;
    if (before.data + before.bytes > starts[i].first) {
      return Damaged(file, *starts[i].second,
                     absl::StrCat("overlaps tensor \"", *starts[i - 1].second, "\""));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Checkpoint> OpenCheckpoint(const std::string& directory) {
  Checkpoint checkpoint;
  const std::string index = directory + "/model.safetensors.index.json";
  const std::string single = directory + "/model.safetensors";
  if (access(index.c_str(), F_OK) == 0) {
    if (absl::Status s = OpenShards(directory, index, checkpoint); !s.ok()) return s;
    return checkpoint;
  }
  if (access(single.c_str(), F_OK) != 0) {
    return absl::NotFoundError(absl::StrCat(
        directory, " holds neither model.safetensors nor model.safetensors.index.json"));
  }
  absl::StatusOr<std::unique_ptr<MappedFile>> file = MappedFile::Open(single);
  if (!file.ok()) return file.status();
  if (absl::Status s = ReadSafetensors(**file, checkpoint.tensors); !s.ok()) return s;
  checkpoint.files.push_back(*std::move(file));
  return checkpoint;
}

}  // namespace tandem::engine
