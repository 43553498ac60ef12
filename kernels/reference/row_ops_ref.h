// Row operations as plain loops: what "correct" means for every backend (ops.h has the formulas).
//
// Sums, exponentials and quotients are f64 with one rounding per stored value; an angle is the f32
// product that gemma4.md 2.4 asks for.
#pragma once

#include "kernels/ops.h"

namespace tandem::kernels {

double GeluTanhReference(double x);  // gemma4.md 2.1

void EmbedReference(const EmbedArgs& args);
void PleReference(const PleArgs& args);
void RmsNormReference(const RmsNormArgs& args);
void NormAddReference(const NormAddArgs& args);
void GeluMulReference(const GeluMulArgs& args);
void RopeTableReference(const RopeTableArgs& args);
void RouteReference(const RouteArgs& args);
void SoftcapReference(const SoftcapArgs& args);

}  // namespace tandem::kernels
