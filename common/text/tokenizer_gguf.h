// Reads the tokenizer of a GGUF file's metadata.
#pragma once

#include "absl/status/statusor.h"
#include "common/formats/gguf.h"
#include "common/text/tokenizer_model.h"

namespace tandem::text {

// kUnimplemented names `tokenizer.ggml.model` or `tokenizer.ggml.pre` if we cannot make its ids; kNotFound
// and kInvalidArgument name the key.
absl::StatusOr<TokenizerModel> ReadGgufTokenizer(const formats::GgufFile& file);

}  // namespace tandem::text
