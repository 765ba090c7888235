// Reads Hugging Face's tokenizer.json.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "common/text/tokenizer_model.h"

namespace tandem::text {

// kUnimplemented names the first part (model type, normalizer, pre-tokenizer, option) that would make other
// ids than those we can make; kInvalidArgument names what is malformed.
absl::StatusOr<TokenizerModel> ReadTokenizerJson(const std::string& tokenizer_json);

}  // namespace tandem::text
