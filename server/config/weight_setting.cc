#include "server/config/weight_setting.h"

namespace tandem::server {

kernels::WeightFormat WeightsOf(const Settings& settings) {
  return settings.weights == "int8"   ? kernels::WeightFormat::kInt8
         : settings.weights == "int4" ? kernels::WeightFormat::kInt4
                                      : kernels::WeightFormat::kBf16;
}

}  // namespace tandem::server
