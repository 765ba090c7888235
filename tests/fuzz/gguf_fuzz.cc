// A whole GGUF file: container, model configuration, tensors, tokenizer, chat template.
#include <map>
#include <string>
#include <utility>

#include "common/formats/checkpoint_tensors.h"
#include "common/formats/gguf_config.h"
#include "common/formats/gguf_parser.h"
#include "common/text/chat_template.h"
#include "common/text/tokenizer.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/use_tensors.h"
#include "tests/fuzz/use_tokenizer.h"

namespace tandem::fuzz {
namespace {

class ParsedGguf : public formats::GgufFile {
 public:
  explicit ParsedGguf(formats::GgufContents contents) : contents_(std::move(contents)) {}
  const std::map<std::string, formats::GgufValue>& metadata() const override { return contents_.metadata; }
  const std::map<std::string, formats::TensorView>& tensors() const override { return contents_.tensors; }

 private:
  const formats::GgufContents contents_;
};

void ReadModel(const formats::GgufFile& file) {
  const auto config = formats::ConfigFromGguf(file);
  if (!config.ok()) return CheckRefusal(config.status());
  const auto tensors =
      formats::CheckpointTensors::Create(*config, file.tensors(), formats::NameScheme::kGguf,
                                         [](const std::string& name) { return name == "rope_freqs.weight"; });
  if (!tensors.ok()) return CheckRefusal(tensors.status());
  TANDEM_CHECK((*tensors)->HasTensor("model.embed_tokens.weight") && (*tensors)->TensorBytes() > 0);
  TANDEM_CHECK(!(*tensors)->Fingerprint().empty());
}

void ReadText(const formats::GgufFile& file) {
  const auto tokenizer = text::Tokenizer::FromGguf(file);
  if (tokenizer.ok()) {
    UseTokenizer(**tokenizer, "It's 1234 <|im_end|> \xC3\xBC\n  <s>");
  } else {
    CheckRefusal(tokenizer.status());
  }
  const auto source = file.GetString("tokenizer.chat_template");
  if (!source.ok()) return;
  const auto chat = text::ChatTemplate::Create(*source, "<s>", "</s>");
  if (!chat.ok()) CheckRefusal(chat.status());
}

}  // namespace

void Run(std::span<const std::byte> bytes) {
  auto contents = formats::ParseGguf(bytes);
  if (!contents.ok()) return CheckRefusal(contents.status());
  for (const auto& [name, tensor] : contents->tensors) UseTensor(tensor, bytes);
  const ParsedGguf file(*std::move(contents));
  ReadModel(file);
  ReadText(file);
}

}  // namespace tandem::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  tandem::fuzz::Run(std::as_bytes(std::span(data, size)));
  return 0;
}
