#include "cli/bar_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

namespace tandem::cli {
namespace {

double Longest(const std::vector<Bar>& bars) {
  double longest = 0;
  for (const Bar& bar : bars) longest = std::max({longest, bar.value, bar.high});
  return longest;
}

std::string Escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace

std::string TextBars(const std::vector<Bar>& bars, const std::string& unit, int width) {
  constexpr const char* kParts[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  size_t label_width = 0;
  double longest = 0;
  for (const Bar& bar : bars) {
    label_width = std::max(label_width, bar.label.size());
    longest = std::max(longest, bar.value);
  }
  std::string out;
  for (const Bar& bar : bars) {
    const auto eighths = longest > 0 ? static_cast<int>(std::lround(bar.value / longest * width * 8)) : 0;
    std::string drawn;
    for (int i = 0; i < eighths / 8; ++i) drawn += "█";
    drawn += kParts[eighths % 8];
    const int cells = (eighths + 7) / 8;
    fmt::format_to(std::back_inserter(out), "{:<{}}  {}{:{}} {:.1f} {}{}{}\n", bar.label, label_width, drawn,
                   "", width - cells, bar.value, unit, bar.note.empty() ? "" : "  ", bar.note);
  }
  return out;
}

std::string SvgBars(const std::string& title, const std::string& unit, const std::vector<Bar>& bars) {
  constexpr int kWidth = 720, kLeft = 150, kRight = 200, kTop = 56, kStep = 40, kThick = 22;
  const double longest = Longest(bars), scale = longest > 0 ? (kWidth - kLeft - kRight) / longest : 0;
  const int height = kTop + kStep * static_cast<int>(bars.size()) + 16;
  std::string out;
  const auto write = std::back_inserter(out);
  fmt::format_to(write,
                 "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" "
                 "font-size=\"14\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
                 "<text x=\"16\" y=\"30\" font-size=\"16\" font-weight=\"bold\">{}</text>\n",
                 kWidth, height, Escaped(title));
  for (size_t i = 0; i < bars.size(); ++i) {
    const Bar& bar = bars[i];
    const int y = kTop + kStep * static_cast<int>(i), middle = y + kThick / 2;
    fmt::format_to(write, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n", kLeft - 10, middle + 5,
                   Escaped(bar.label));
    fmt::format_to(write, "<rect x=\"{}\" y=\"{}\" width=\"{:.1f}\" height=\"{}\" fill=\"{}\"/>\n", kLeft, y,
                   bar.value * scale, kThick, i == 0 ? "#9aa5b1" : "#2f7ebc");
    if (bar.high > bar.low) {
      fmt::format_to(write,
                     "<path d=\"M{0:.1f} {2}H{1:.1f}M{0:.1f} {3}V{4}M{1:.1f} {3}V{4}\" stroke=\"black\" "
                     "fill=\"none\"/>\n",
                     kLeft + bar.low * scale, kLeft + bar.high * scale, middle, middle - 5, middle + 5);
    }
    fmt::format_to(write, "<text x=\"{:.1f}\" y=\"{}\">{:.1f} {}{}{}</text>\n",
                   kLeft + std::max(bar.value, bar.high) * scale + 8, middle + 5, bar.value, Escaped(unit),
                   bar.note.empty() ? "" : "  ", Escaped(bar.note));
  }
  return out + "</svg>\n";
}

}  // namespace tandem::cli
