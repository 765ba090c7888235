#include "common/text/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

#include "common/base/status.h"
#include "common/formats/quoted.h"

namespace tandem::text {
namespace {

// Backtracking steps of one match: a run of a million spaces without a newline takes one step for each of
// them.
constexpr uint32_t kMatchLimit = 100'000'000;
constexpr uint32_t kDepthLimit = 10'000;
constexpr uint32_t kHeapLimitKib = 16 * 1024;

// Unicode's White_Space. PCRE2's own \s also holds U+180E, which lost that property in Unicode 6.3.
#define WHITE_SPACE \
  "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define QWEN_LIKE(digits)                                                                   \
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" WHITE_SPACE  \
  "\\p{L}\\p{N}]+[\\r\\n]*|[" WHITE_SPACE "]*[\\r\\n]+|[" WHITE_SPACE "]+(?![^" WHITE_SPACE \
  "])|[" WHITE_SPACE "]+"
#define QWEN_LIKE_IN_FILES(digits)                                     \
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits \
  "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

struct KnownPreTokenizer {
  PreTokenizerKind kind;
  std::string_view name;
  std::string_view regex_in_files;  // empty: files describe it otherwise
  const char* pattern;
};

constexpr KnownPreTokenizer kKnown[] = {
    {PreTokenizerKind::kGpt2, "gpt-2",
     "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
     "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WHITE_SPACE "\\p{L}\\p{N}]+|[" WHITE_SPACE
     "]+(?![^" WHITE_SPACE "])|[" WHITE_SPACE "]+"},
    // Two cuts in one pattern: a number ends a run of spaces as the text's end does, so all of the run stays
    // together.
    {PreTokenizerKind::kSmolLm, "smollm", "",
     "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+|\\p{N}| ?[^" WHITE_SPACE "\\p{L}\\p{N}]+|[" WHITE_SPACE
     "]+(?![^" WHITE_SPACE "\\p{N}])|[" WHITE_SPACE "]+"},
    {PreTokenizerKind::kQwen2, "qwen2", QWEN_LIKE_IN_FILES("\\p{N}"), QWEN_LIKE("\\p{N}")},
    {PreTokenizerKind::kLlama3, "llama-bpe", QWEN_LIKE_IN_FILES("\\p{N}{1,3}"), QWEN_LIKE("\\p{N}{1,3}")},
};

const KnownPreTokenizer& Known(PreTokenizerKind kind) {
  for (const KnownPreTokenizer& known : kKnown) {
    if (known.kind == kind) return known;
  }
  TANDEM_CHECK(false);
}

std::string ErrorText(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

struct MatchDataFree {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

}  // namespace

std::string_view PreTokenizerName(PreTokenizerKind kind) { return Known(kind).name; }

absl::StatusOr<PreTokenizerKind> FindPreTokenizer(std::string_view name) {
  for (const KnownPreTokenizer& known : kKnown) {
    if (known.name == name) return known.kind;
  }
  if (name == "llama3" || name == "llama-v3") return PreTokenizerKind::kLlama3;  // older spellings
  return Unimplemented("pre-tokenizer {} is not supported", formats::Quoted(name));
}

absl::StatusOr<PreTokenizerKind> FindPreTokenizerByRegex(std::string_view regex) {
  for (const KnownPreTokenizer& known : kKnown) {
    if (!known.regex_in_files.empty() && known.regex_in_files == regex) return known.kind;
  }
  return Unimplemented("pre-tokenizer with the pattern {} is not supported", formats::Quoted(regex));
}

struct PreTokenizer::Pattern {
  pcre2_code* code = nullptr;
  pcre2_match_context* limits = nullptr;
  ~Pattern() {
    pcre2_match_context_free(limits);
    pcre2_code_free(code);
  }
};

PreTokenizer::PreTokenizer(std::unique_ptr<Pattern> pattern) : pattern_(std::move(pattern)) {}
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer::~PreTokenizer() = default;

absl::StatusOr<PreTokenizer> PreTokenizer::Create(PreTokenizerKind kind) {
  const KnownPreTokenizer& known = Known(kind);
  auto pattern = std::make_unique<Pattern>();
  int error = 0;
  PCRE2_SIZE offset = 0;
  pattern->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(known.pattern), PCRE2_ZERO_TERMINATED,
                                PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
  if (pattern->code == nullptr) {
    return Internal("pattern of pre-tokenizer '{}' at {}: {}", known.name, offset, ErrorText(error));
  }
  pattern->limits = pcre2_match_context_create(nullptr);
  if (pattern->limits == nullptr) return ResourceExhausted("no memory for pre-tokenizer '{}'", known.name);
  pcre2_set_match_limit(pattern->limits, kMatchLimit);
  pcre2_set_depth_limit(pattern->limits, kDepthLimit);
  pcre2_set_heap_limit(pattern->limits, kHeapLimitKib);
  return PreTokenizer(std::move(pattern));
}

absl::Status PreTokenizer::Split(std::string_view text, std::vector<std::string_view>* words) const {
  const std::unique_ptr<pcre2_match_data, MatchDataFree> match(pcre2_match_data_create(1, nullptr));
  if (match == nullptr) return ResourceExhausted("no memory for splitting text");
  for (size_t at = 0; at < text.size();) {
    // The text is known to be UTF-8; checking it again at every word would take quadratic time.
    const int result = pcre2_match(pattern_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                                   PCRE2_NO_UTF_CHECK, match.get(), pattern_->limits);
    if (result == PCRE2_ERROR_NOMATCH) {
      words->push_back(text.substr(at));
      break;
    }
    if (result < 0) return ResourceExhausted("splitting text at byte {}: {}", at, ErrorText(result));
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match.get());
    TANDEM_CHECK(bounds[1] > bounds[0] && bounds[0] >= at);  // no pattern of ours matches nothing
    if (bounds[0] > at) words->push_back(text.substr(at, bounds[0] - at));
    words->push_back(text.substr(bounds[0], bounds[1] - bounds[0]));
    at = bounds[1];
  }
  return absl::OkStatus();
}

}  // namespace tandem::text
