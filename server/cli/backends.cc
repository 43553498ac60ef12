#include "server/cli/backends.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/weights.h"
#include "server/cli/built_devices.h"
#include "server/cli/format.h"
#include "server/cli/machine.h"
#include "server/cli/model_shapes.h"
#include "server/config/device_setting.h"

namespace tandem::server {
namespace {

using Kind = DeviceSetting::Kind;

// "what is so; what to do" without the advice.
std::string FactOf(const absl::Status& status) {
  const std::string message(status.message());
  return message.substr(0, message.find("; "));
}

absl::StatusOr<std::unique_ptr<kernels::DeviceBackend>> Open(const DeviceSetting& setting,
                                                             kernels::CpuBackend& cpu) {
  return setting.kind == Kind::kEmulated ? OpenEmulated(cpu) : OpenCuda(setting.index, cpu);
}

}  // namespace

absl::StatusOr<kernels::CpuBackendPtr> MakeCpu(const Settings& settings) {
  kernels::CpuConfig config = {.threads = settings.threads,
                               .bf16_operands = settings.dtype == "bf16"};
  if (settings.cpu_isa != "auto") {
    absl::StatusOr<kernels::CpuIsa> isa = kernels::ParseCpuIsa(settings.cpu_isa);
    if (!isa.ok()) return isa.status();
    config.isa = *isa;
  }
  absl::StatusOr<kernels::CpuBackendPtr> backend = kernels::MakeCpuBackend(config);
  if (!backend.ok()) {
    return absl::Status(backend.status().code(),
                        absl::StrFormat("--cpu-isa %s, --threads %d: %s", settings.cpu_isa,
                                        settings.threads, std::string(backend.status().message())));
  }
  return backend;
}

absl::StatusOr<Backends> MakeBackends(const Settings& settings) {
  absl::StatusOr<kernels::CpuBackendPtr> cpu = MakeCpu(settings);
  if (!cpu.ok()) return cpu.status();
  Backends backends = {.cpu = *std::move(cpu)};
  const DeviceSetting setting = DeviceOf(settings);
  if (setting.kind == Kind::kCpu) return backends;
  if (const std::string f32 = F32Option(settings); !f32.empty()) {
    if (setting.kind == Kind::kAuto) {
      backends.why_cpu = f32 + " is for the CPU alone";
      return backends;
    }
    return absl::InvalidArgumentError(absl::StrFormat(
        "--device %s and %s contradict each other: devices have kernels for bf16 activations and "
        "for KV of 16 bits and less; drop one",
        settings.device, f32));
  }
  absl::StatusOr<std::unique_ptr<kernels::DeviceBackend>> device = Open(setting, *backends.cpu);
  if (device.ok()) {
    backends.device = *std::move(device);
  } else if (setting.kind == Kind::kAuto) {
    backends.why_cpu = FactOf(device.status());
  } else {
    return absl::Status(device.status().code(),
                        absl::StrFormat("--device %s: %s", settings.device,
                                        std::string(device.status().message())));
  }
  return backends;
}

absl::Status CheckShapes(const ModelSource& source, const Backends& backends) {
  if (backends.device == nullptr) return absl::OkStatus();
  std::vector<kernels::ShapeNeed> needs = ShapesOf(source.config);
  if (source.assistant.has_value()) {
    for (kernels::ShapeNeed& need : ShapesOf(source.assistant->config)) {
      needs.push_back(std::move(need));
    }
  }
  for (const kernels::ShapeNeed& need : needs) {
    if (absl::Status s = backends.device->CheckShape(need); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::StatusOr<MemoryPlan> PlanMemoryOf(const Backends& backends, const engine::ModelConfig& config,
                                        MemoryRequest request) {
  const FreeMemory host = LookAtMemory();
  if (backends.device == nullptr) return PlanMemory(config, request, host);
  const uint64_t table_bytes = request.ple_in_file ? 0 : engine::PleTableBytes(config);
  if (table_bytes > host.bytes) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "not enough memory: the table of per-layer embeddings stays with the host and takes %s, %s "
        "are free %s; free memory, or take a smaller --model-shape",
        BytesText(table_bytes), BytesText(host.bytes), host.limit));
  }
  const absl::StatusOr<size_t> free = backends.device->FreeBytes();
  if (!free.ok()) return free.status();
  request.device =
      DeviceRequest{.operand_bytes = backends.ops().operand_bytes,
                    .own_bytes = backends.device->OwnBytes(
                        {.max_step_rows = request.max_step_rows,
                         .hidden = config.hidden,
                         .ple_row_values = int64_t{config.ple_width} * config.num_layers(),
                         .experts = config.experts,
                         .experts_per_token = config.experts_per_token,
                         .expert_width = config.expert_width,
                         .weight_codes = request.weights != kernels::WeightFormat::kBf16})};
  return PlanMemory(config, request, {.bytes = *free, .limit = "on " + backends.ops().name});
}

}  // namespace tandem::server
