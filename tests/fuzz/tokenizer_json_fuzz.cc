// A tokenizer.json and a text for it: "tokenizer.json NUL text".
#include <string>

#include "common/text/tokenizer.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/use_tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem;
  std::string_view rest = fuzz::View(data, size);
  const std::string description(fuzz::TakePart(rest));
  const auto tokenizer = text::Tokenizer::FromJson(description);
  if (tokenizer.ok()) {
    fuzz::UseTokenizer(**tokenizer, rest);
    TANDEM_CHECK((*text::Tokenizer::FromJson(description))->hash() == (*tokenizer)->hash());
  } else {
    fuzz::CheckRefusal(tokenizer.status());
  }
  return 0;
}
