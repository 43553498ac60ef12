#include "tests/engine/checkpoint_copy.h"

#include <unistd.h>

#include <cstring>
#include <fstream>
#include <sstream>

#include "tests/engine/engine_rig.h"

namespace tandem::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

uint64_t HeaderSize(const std::string& bytes) {
  uint64_t size = 0;
  std::memcpy(&size, bytes.data(), 8);
  return size;
}

std::string WithHeader(const json& header, const std::string& data) {
  const std::string text = header.dump();
  const uint64_t size = text.size();
  return std::string(reinterpret_cast<const char*>(&size), 8) + text + data;
}

}  // namespace

std::string ReadAll(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

void WriteAll(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

CheckpointCopy::CheckpointCopy(const std::string& variant, const std::string& part) {
  std::string pattern = (fs::temp_directory_path() / "tandem-checkpoint-XXXXXX").string();
  dir_ = mkdtemp(pattern.data());
  for (const auto& entry : fs::directory_iterator(GoldenDir(variant) + "/" + part)) {
    if (entry.path().filename() != "tokenizer.json") {
      fs::copy(entry.path(), dir_ / entry.path().filename());
    }
  }
}

CheckpointCopy::~CheckpointCopy() { fs::remove_all(dir_); }

void CheckpointCopy::EditJson(const std::function<void(json&)>& edit,
                              const std::string& name) const {
  json value = json::parse(ReadAll(file(name)));
  edit(value);
  WriteAll(file(name), value.dump());
}

void CheckpointCopy::EditHeader(const std::function<void(json&)>& edit,
                                const std::string& name) const {
  const std::string bytes = ReadAll(file(name));
  const uint64_t size = HeaderSize(bytes);
  json header = json::parse(bytes.substr(8, size));
  edit(header);
  WriteAll(file(name), WithHeader(header, bytes.substr(8 + size)));
}

std::map<std::string, RawTensor> CheckpointCopy::Tensors() const {
  const std::string bytes = ReadAll(file("model.safetensors"));
  const uint64_t size = HeaderSize(bytes);
  const json header = json::parse(bytes.substr(8, size));
  std::map<std::string, RawTensor> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const size_t begin = entry["data_offsets"][0], end = entry["data_offsets"][1];
    tensors[name] = {entry["dtype"], entry["shape"], bytes.substr(8 + size + begin, end - begin)};
  }
  return tensors;
}

void CheckpointCopy::Write(const std::map<std::string, RawTensor>& tensors) const {
  json header = json::object();
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {{"dtype", tensor.dtype},
                    {"shape", tensor.shape},
                    {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  WriteAll(file("model.safetensors"), WithHeader(header, data));
}

void CheckpointCopy::EditTensors(
    const std::function<void(std::map<std::string, RawTensor>&)>& edit) const {
  std::map<std::string, RawTensor> tensors = Tensors();
  edit(tensors);
  Write(tensors);
}

}  // namespace tandem::testing
