// A copy of a golden checkpoint in a temporary directory, which a test may damage.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tandem::testing {

std::string ReadAll(const std::filesystem::path& path);
void WriteAll(const std::filesystem::path& path, const std::string& bytes);

struct RawTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

class CheckpointCopy {
 public:
  // `part` is "target" or "assistant". tokenizer.json stays behind.
  CheckpointCopy(const std::string& variant, const std::string& part);
  ~CheckpointCopy();
  CheckpointCopy(const CheckpointCopy&) = delete;
  CheckpointCopy& operator=(const CheckpointCopy&) = delete;

  std::string dir() const { return dir_.string(); }
  std::filesystem::path file(const std::string& name) const { return dir_ / name; }

  // Rewrites a JSON file, by default the configuration.
  void EditJson(const std::function<void(nlohmann::json&)>& edit,
                const std::string& name = "config.json") const;

  // Rewrites the header of a safetensors file; the data stays as it is.
  void EditHeader(const std::function<void(nlohmann::json&)>& edit,
                  const std::string& name = "model.safetensors") const;

  // The tensors of model.safetensors, and a file of others in its place.
  std::map<std::string, RawTensor> Tensors() const;
  void Write(const std::map<std::string, RawTensor>& tensors) const;
  void EditTensors(const std::function<void(std::map<std::string, RawTensor>&)>& edit) const;

 private:
  std::filesystem::path dir_;
};

}  // namespace tandem::testing
