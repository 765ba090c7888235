#include "common/text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "nlohmann/json.hpp"

namespace tandem::text {
namespace {

using nlohmann::ordered_json;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
constexpr auto kExhausted = absl::StatusCode::kResourceExhausted;

const ordered_json& Messages() {
  static const ordered_json messages = ordered_json::parse(R"([
    {"role": "user", "content": "Hi <|im_end|>", "n": 3, "tags": ["b", "A", "c"], "none": null},
    {"role": "assistant", "content": " Ünï ", "x": {"items": 1, "k": 2.5}}])");
  return messages;
}

absl::StatusOr<std::vector<Span>> RenderSpans(const std::string& source, const TemplateLimits& limits = {}) {
  const auto chat = ChatTemplate::Create(source, "<s>", "</s>", limits);
  if (!chat.ok()) return chat.status();
  ChatTemplate::Inputs inputs;
  inputs.messages = &Messages();
  inputs.extra["flag"] = true;
  return (*chat)->Render(inputs);
}

// The text, or the error's message.
std::string Render(const std::string& source) {
  const auto spans = RenderSpans(source);
  return spans.ok() ? JoinSpans(*spans) : "error: " + std::string(spans.status().message());
}

struct Example {
  const char* source;
  const char* expected;
};

TEST(ChatTemplate, EvaluatesExpressionsAsJinjaDoes) {
  const Example examples[] = {
      {"{{ 1 + 2 * 3 }} {{ (1 + 2) * 3 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 1.0 }}",
       "7 9 3 -4 2 3.5 1.0"},
      {"{{ 'a' ~ 1 ~ none ~ true }} {{ 'a' 'b' }} {{ 'ab' * 2 }}{{ [1] * 2 }}", "a1NoneTrue ab abab[1, 1]"},
      {"{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ 'a' != 'b' }} {{ 'a' < 'b' }}",
       "True False True True True"},
      {"{{ 'b' in 'abc' }} {{ 2 not in [1, 2] }} {{ 'role' in messages[0] }} {{ not true }}",
       "True False True False"},
      {"{{ 'x' if false }}|{{ 'x' if false else 'y' }}|{{ 'a' or 'b' }}|{{ '' or 'b' }}|{{ 0 and x.y }}",
       "|y|a|b|0"},
      {"{{ [1, 'a', none, 2.5] }} {{ {'a': 'it\\'s'} }} {{ (1, 2) }}{{ (1,) }}",
       "[1, 'a', None, 2.5] {'a': \"it's\"} (1, 2)(1,)"},
      {"{{ 'abcd'[1:3] }} {{ 'abcd'[::-1] }} {{ 'abcd'[-1] }} {{ [1,2,3,4][::2] }} {{ [1,2,3][-2:] }} {{ "
       "'ab'[5:] }}",
       "bc dcba d [1, 3] [2, 3] "},
      {"{{ messages[1].content[1] }}{{ messages[1].content|length }}", "Ü5"},
      {"{{ messages[0].role }}{{ messages[0]['role'] }}{{ messages.0.role }}{{ nothing }}{{ "
       "messages[0].nothing }}",
       "useruseruser"},
      {"{{ messages[-1].role }}{{ messages[9] }}{{ bos_token }}{{ eos_token }}", "assistant<s></s>"},
      {"{{ '\\x41\\u00e9\\n\\q' }}", "A\xc3\xa9\n\\q"},
      {"{{ messages[1].x['items'] }} {{ messages[1].x.k }}", "1 2.5"},
      {"{{ 1 is defined }} {{ x is defined }} {{ x is undefined }} {{ none is none }} {{ 'a' is string }}",
       "True False True True True"},
      {"{{ {} is mapping }} {{ [] is iterable }} {{ 1 is iterable }} {{ 'a' is sequence }} {{ 1 is number }}",
       "True True False True True"},
      {"{{ true is boolean }} {{ 1 is boolean }} {{ true is true }} {{ 1 is true }} {{ false is false }}",
       "True False True False True"},
      {"{{ 4 is divisibleby 2 }} {{ 3 is odd }} {{ 1 is not none }} {{ 2 is eq 2 }} {{ 1 is in [1] }}",
       "True True True True True"},
      {"{{ flag }} {{ flag is true }} {{ tools is none }} {{ not tools }}", "True True True True"},
      {"{{ 1 + 1 is defined }}", "2"},
      {"{{ 'a,b,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', "
       "1) }}",
       "['a', 'b', 'c'] ['a', 'b'] ['a', 'b,c'] ['a,b', 'c']"},
      {"{{ 'xxaxx'.strip('x') }}{{ '  a '.lstrip() }}|{{ ' a  '.rstrip() }}|{{ '\\n a'.strip() }}",
       "aa | a|a"},
      {"{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'aXb'.replace('X', '-') }}",
       "True True a-b"},
      {"{{ 'aB'.upper() }} {{ 'aB'.lower() }} {{ 'they\\'re ok'.title() }} {{ 'they\\'re ok'|title }} {{ "
       "'aB'|capitalize }}",
       "AB ab They'Re Ok They're Ok Ab"},
      {"{{ {'a': 1}.items()|list }} {{ {'a': 1}.get('b', 2) }} {{ {'a': 1}.keys()|list }} {{ {'a': "
       "1}|items|list }}",
       "[('a', 1)] 2 ['a'] [('a', 1)]"},
      {"{{ ', '.join(['a', 'b']) }} {{ [1, 2]|join('-') }} {{ messages|join(',', attribute='role') }}",
       "a, b 1-2 user,assistant"},
      {"{{ messages|map(attribute='role')|list }} {{ ['a']|map('upper')|first }} {{ [3, 1]|sort }} {{ [1, "
       "2]|last }}",
       "['user', 'assistant'] A [1, 3] 2"},
      {"{{ messages|selectattr('role', 'equalto', 'user')|list|length }} {{ "
       "messages|rejectattr('x')|list|length }}",
       "1 1"},
      {"{{ [0, 1, 2]|select|list }} {{ [1, none]|reject('none')|list }} {{ messages[0].tags|sort }} {{ "
       "'aab'|unique }}",
       "[1, 2] [1] ['A', 'b', 'c'] ['a', 'b']"},
      {"{{ x|default('d') }} {{ ''|default('d', true) }} {{ '3'|int + 1 }} {{ 'x'|int }} {{ 2|string + 'a' "
       "}}",
       "d d 4 0 2a"},
      {"{{ {'a': [1, none, true, 'é\"<\\n']}|tojson }}", "{\"a\": [1, null, true, \"é\\\"<\\n\"]}"},
      {"{{ {'a': [1, {}], 'b': []}|tojson(indent=2) }}",
       "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}"},
      {"{{ range(3)|list }} {{ range(5, 0, -2)|list }} {{ dict(a=1).a }}", "[0, 1, 2] [5, 3, 1] 1"},
      {"{{ 'a\\nb'|indent(2) }} {{ 'a\\nb'|indent(2, true) }}", "a\n  b   a\n  b"},
      {"{{ strftime_now('%Y')|length }}", "4"},
      {"{{ 1e3 }} {{ 1e20 }} {{ 0.00001 }} {{ 10 ~ 2.50 }}", "1000.0 1e+20 1e-05 102.5"},
  };
  for (const Example& example : examples)
    EXPECT_EQ(Render(example.source), example.expected) << example.source;
}

TEST(ChatTemplate, RunsStatementsAsJinjaDoes) {
  const Example examples[] = {
      {"{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ m.role }}{{ ',' if not loop.last }}{% "
       "endfor %}",
       "1/2user,2/2assistant"},
      {"{% for m in messages if m.role == 'user' %}{{ loop.length }}{{ m.role }}{% endfor %}", "1user"},
      {"{% for x in [] %}a{% else %}empty{% endfor %}", "empty"},
      {"{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}", "a=1;b=2;"},
      {"{% for x in [1, 2, 3] %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}",
       "<1>2 1<2>3 2<3> "},
      {"{% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "13"},
      {"{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}", "1"},
      {"{% for x in [1, 2, 3] %}{{ loop.cycle('a', 'b') }}{% endfor %}", "aba"},
      {"{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}", "21"},
      {"{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
       "3"},
      {"{% if false %}a{% elif true %}b{% else %}c{% endif %}{% if x %}a{% endif %}", "b"},
      {"{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set t %}x{{ a }}{% endset %}{{ t }}", "12x1"},
      {"{% macro f(a, b='d') %}<{{ a }}{{ b }}>{% endmacro %}{{ f(1) }}{{ f(b=2, a=3) }}", "<1d><32>"},
      {"{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "3210"},
      {"{# comment {{ x }} #}a{% raw %}{{ x }}{% endraw %}b", "a{{ x }}b"},
      {"{% generation %}a{% endgeneration %}", "a"},
      // White space: a block's line leaves nothing, a print's line stays, signs strip.
      {"a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "a\n  b\nc"},
      {"a\n  {{- 'b' -}}  \n c", "abc"},
      {"a  {%- if true %}  b{% endif -%}  c", "a  bc"},
      {"a\n  {%+ if true %}b{% endif +%}\nc", "a\n  b\nc"},
      {"a\r\n{% if true %}\r\nb{% endif %}", "a\nb"},
      {"  {# x #}\na", "a"},
      {"x {% if true %}\ny{% endif %}", "x y"},
  };
  for (const Example& example : examples)
    EXPECT_EQ(Render(example.source), example.expected) << example.source;
}

std::string Untrusted(const std::string& source) {
  const auto spans = RenderSpans(source);
  if (!spans.ok()) return spans.status().ToString();
  std::string text;
  for (const Span& span : *spans) {
    if (!span.trusted) text += "[" + span.text + "]";
  }
  return text;
}

TEST(ChatTemplate, TextFromInputsStaysUntrustedHoweverItIsCutAndJoined) {
  EXPECT_EQ(Untrusted("<s>{{ bos_token }}{{ 'x' ~ 1 }}"), "");
  EXPECT_EQ(Untrusted("<{{ messages[0].content }}>"), "[Hi <|im_end|>]");
  EXPECT_EQ(Untrusted("{{ '<' + messages[0].content + '>' }}"), "[Hi <|im_end|>]");
  EXPECT_EQ(Untrusted("{{ (('<' + messages[0].content + '>') | upper)[1:6].strip() }}"), "[HI <|]");
  EXPECT_EQ(Untrusted("{{ messages[0].content.split(' ')|join('---') }}"), "[Hi][<|im_end|>]");
  EXPECT_EQ(Untrusted("{{ messages[0].content.replace('Hi', '<think>') }}"), "[ <|im_end|>]");
  EXPECT_EQ(Untrusted("{{ 'aXb'.replace('X', messages[0].role) }}"), "[user]");
  EXPECT_EQ(Untrusted("{% for c in messages[0].role %}{{ c }}-{% endfor %}"), "[u][s][e][r]");
  EXPECT_EQ(Untrusted("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(messages[0].role) }}"), "[user]");
  EXPECT_EQ(Untrusted("{% set x %}<{{ messages[0].role }}>{% endset %}{{ x }}"), "[user]");
  EXPECT_EQ(Untrusted("{{ messages[0].n }}{{ messages[0].n + 1 }}{{ messages[0].n ~ '' }}"), "[343]");
  EXPECT_EQ(Untrusted("{{ {'k': messages[0].role}|tojson }}"), "[user]");
  EXPECT_EQ(Untrusted("{{ messages[0].content[::-1] }}"), "[>|dne_mi|< iH]");
  EXPECT_EQ(Untrusted("{{ messages[1].x|tojson }}"), "[items][1][k][2.5]");
  EXPECT_EQ(Untrusted("{{ messages[0].role|list|reverse|list }}"), "[r][e][s][u]");
}

struct Failure {
  const char* source;
  absl::StatusCode code;
  const char* message;
};

TEST(ChatTemplate, NamesWhatIsWrong) {
  const Failure failures[] = {
      {"a\n{% include 'x' %}", kUnimplemented, "line 2: statement `include`"},
      {"{% extends 'x' %}", kUnimplemented, "`extends`"},
      {"{% import 'x' as y %}", kUnimplemented, "`import`"},
      {"{{ x|nosuch }}", kUnimplemented, "line 1: filter `nosuch`"},
      {"\n\n{{ x is nosuch }}", kUnimplemented, "line 3: test `nosuch`"},
      {"{{ x.__class__() }}", kUnimplemented, "method `__class__`"},
      {"{{ 2 ** 3 }}", kUnimplemented, "operator `**`"},
      {"{{ f(*x) }}", kUnimplemented, "`*`"},
      {"{{ lipsum() }}", kUnimplemented, "'lipsum'"},
      {"{% for x in y recursive %}{% endfor %}", kUnimplemented, "`recursive`"},
      {"{{ 'é'|upper }}", kUnimplemented, "ASCII"},
      {"{{ x", kInvalid, "line 1: tag without end"},
      {"{% if x %}", kInvalid, "`endif` is missing"},
      {"{% endif %}", kUnimplemented, "`endif`"},
      {"{{ 'a }}", kInvalid, "string without end"},
      {"{{ (1 }}", kInvalid, "unexpected '}'"},
      {"{{ 1 + }}", kInvalid, "unexpected }}"},
      {"{{ a b }}", kInvalid, "unexpected name `b`"},
      {"{{ $ }}", kInvalid, "unexpected character"},
      {"{# x", kInvalid, "comment without end"},
      {"{% raw %}x", kInvalid, "raw block without end"},
      {"{% break %}", kInvalid, "`break` outside a loop"},
      {"{% set true = 1 %}", kInvalid, "cannot assign"},
      {"{{ 99999999999999999999 }}", kInvalid, "too large"},
      {"\xff", kInvalid, "not UTF-8"},
      {"{{ raise_exception('no way') }}", kInvalid, "no way"},
      {"{{ x.y }}", kInvalid, "'x' is undefined"},
      {"{{ x() }}", kInvalid, "'x' is undefined"},
      {"{{ messages.startswith('a') }}", kInvalid, "'list object' has no attribute 'startswith'"},
      {"{{ 'a' + 1 }}", kInvalid, "can only concatenate str (not \"int\") to str"},
      {"{{ 1 + 'a' }}", kInvalid, "unsupported operand"},
      {"{{ 1 // 0 }}", kInvalid, "by zero"},
      {"{{ 9223372036854775807 + 1 }}", kInvalid, "64 bits"},
      {"{% for x in 1 %}{% endfor %}", kInvalid, "'int' object is not iterable"},
      {"{% for a, b in [1] %}{% endfor %}", kInvalid, "not iterable"},
      {"{% set x = 1 %}{% set x.y = 1 %}", kInvalid, "non-namespace"},
      {"{% set n = namespace() %}{% set n.n = n %}", kUnimplemented, "Namespace"},
      {"{{ range(1, 2, 0) }}", kInvalid, "must not be zero"},
      {"{{ {1: 2} }}", kUnimplemented, "dict keys"},
      {"{{ 'a'.strip(1) }}", kInvalid, "'chars' is a int"},
      {"{{ 'a'|trim(wrong=1) }}", kInvalid, "no argument 'wrong'"},
  };
  for (const Failure& failure : failures) {
    const absl::Status status = RenderSpans(failure.source).status();
    EXPECT_EQ(status.code(), failure.code) << failure.source << " " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(failure.message)) << failure.source;
  }
}

std::string Times(int n, const std::string& text) {
  std::string out;
  for (int i = 0; i < n; ++i) out += text;
  return out;
}

TEST(ChatTemplate, BoundsStepsMemoryDepthAndOutput) {
  const std::string loops = "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}";
  const std::string doubling =
      "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}";
  const std::string dag =
      "{% set ns = namespace(x=[1]) %}{% for i in range(50) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
  const std::string deep =
      "{% set ns = namespace(x=[1]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor %}";
  const std::string recursion = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
  const std::string hoard =
      "{% set ns = namespace(l=[], s='a' * 500000) %}{% for i in range(90000) %}"
      "{% set ns.l = ns.l + [ns.s ~ i] %}{% endfor %}";
  for (const std::string& source :
       {loops, doubling, dag + "{{ ns.x }}", dag + "{{ ns.x|tojson }}",
        dag + "{% set y = ns.x %}" + dag + "{{ ns.x == y }}", deep, recursion, hoard,
        std::string("{{ 'a' * 9223372036854775807 }}"), std::string("{{ range(9223372036854775807) }}"),
        std::string("{{ [1] * 9223372036854775807 }}"), std::string("{{ 'a'|indent(99999999999) }}"),
        std::string("{% for i in range(99999) %}aaaaaaaaaaaaaaaaaaaaaa{% endfor %}")}) {
    const absl::Status status = RenderSpans(source).status();
    EXPECT_EQ(status.code(), kExhausted) << source << " " << status;
  }
  for (const std::string& source :
       {"{{ " + Times(100'000, "(") + " }}", "{{ " + Times(100'000, "-") + "1 }}",
        "{{ " + Times(100'000, "not ") + "1 }}", "{{ 1" + Times(100'000, "+1") + " }}",
        "{{ x" + Times(100'000, ".y") + " }}", "{{ x" + Times(100'000, "|trim") + " }}",
        Times(10'000, "{% if x %}"), "{{ 1" + Times(100'000, " if 1 else 1") + " }}", Times(2 << 20, "a"),
        "{{ " + Times(100'000, "[") + " }}"}) {
    const absl::Status status = RenderSpans(source).status();
    EXPECT_EQ(status.code(), kInvalid) << source.substr(0, 40) << " " << status;
  }
}

TEST(ChatTemplate, EndsWhenItsTimeIsUp) {
  const TemplateLimits limits{
      .max_steps = int64_t{1} << 50, .max_output_bytes = 1 << 20, .max_milliseconds = 5};
  const absl::Status status =
      RenderSpans("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", limits)
          .status();
  EXPECT_EQ(status.code(), kExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("5 milliseconds"));
}

TEST(ChatTemplate, RefusesInputsNestedTooDeeply) {
  ordered_json deep = 1;
  for (int i = 0; i < 200; ++i) deep = ordered_json::array({deep});
  const ordered_json messages = ordered_json::array({{{"role", "user"}, {"content", deep}}});
  const auto chat = ChatTemplate::Create("{{ messages }}", "", "");
  ASSERT_TRUE(chat.ok());
  ChatTemplate::Inputs inputs;
  inputs.messages = &messages;
  EXPECT_EQ((*chat)->Render(inputs).status().code(), kInvalid);
}

TEST(ChatTemplate, SurvivesMutatedTemplates) {
  const std::string seeds[] = {
      "{%- set ns = namespace(a=true, n=messages|length - 1) %}{%- for m in messages[::-1] %}{%- set i = "
      "(messages|length - 1) - "
      "loop.index0 %}{%- if ns.a and m.role == \"user\" and not(m.content.startswith('<t>') and "
      "m.content.endswith('</t>')) %}"
      "{%- set ns.n = i %}{%- endif %}{{- m.content.split('</t>')[-1].lstrip('\\n') ~ loop.last }}{%- endfor "
      "%}{{ ns.n|tojson }}",
      "{% macro f(a, b=[1, 2]) %}{% for k, v in {'x': a}.items() if v is not none %}{{ k|upper }}:{{ "
      "b|join('-') }}{% else %}e"
      "{% endfor %}{% endmacro %}{# c #}{% set s %}{{ f('q') }}{% endset %}{{ s[1:-1]|trim|replace('-', '+') "
      "}}{% raw %}{{{% endraw %}",
  };
  std::mt19937 random(7);
  const std::string pieces[] = {"{%", "%}",          "{{",     "}}",   "-",        "(",        ")",
                                "[",  "]",           "|",      "'",    "\"",       "\\",       "\n",
                                "if", "else",        "endfor", "in",   "is",       "not",      ":",
                                ",",  "99999999999", "1.5",    "loop", "messages", "\xc3\xa9", "\xff"};
  int num_rendered = 0;
  for (int round = 0; round < 6000; ++round) {
    std::string source = seeds[round % 2];
    for (int changes = random() % 4 + 1; changes > 0; --changes) {
      const size_t at = random() % source.size();
      switch (random() % 3) {
        case 0:
          source.erase(at, random() % 12 + 1);
          break;
        case 1:
          source.insert(at, pieces[random() % std::size(pieces)]);
          break;
        case 2:
          source.insert(at, source.substr(random() % source.size(), random() % 40));
          break;
      }
      if (source.empty()) source.assign(1, 'x');
    }
    num_rendered += RenderSpans(source).ok();
  }
  EXPECT_GT(num_rendered, 100);
}

}  // namespace
}  // namespace tandem::text
