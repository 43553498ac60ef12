// Tokenizers and texts that several tests of the text layer share.

#pragma once

#include <random>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "server/text/tokenizer.h"

namespace tandem::server {

// The small tokenizer of the model specification as a tokenizer.json: ids 0..24 as printed there,
// then the byte tokens it leaves out, and <|turn> and <|turn>> as added tokens past the vocabulary.
nlohmann::json SyntheticTokenizerJson();

// Loads it; ends the test program when that fails.
Tokenizer SyntheticTokenizer();

inline const std::vector<std::string> kGoldenVariants = {"e2b-like", "e4b-like", "12b-like",
                                                         "26b-like", "31b-like"};

// A file of tests/golden/<variant>.
std::string GoldenPath(const std::string& variant, const std::string& name);
Tokenizer GoldenTokenizer(const std::string& variant);

// That of models/demo: small, with all control tokens at their usual ids.
const Tokenizer& DemoTokenizer();

// `code_points` random characters from all planes, without surrogates, U+2581 and '<' (which starts
// every added token).
std::string RandomText(std::mt19937& rng, int code_points);

}  // namespace tandem::server
