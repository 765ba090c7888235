// Small bar charts: in the terminal, and as an SVG file.
#pragma once

#include <string>
#include <vector>

namespace tandem::cli {

struct Bar {
  std::string label;
  double value = 0;          // >= 0
  double low = 0, high = 0;  // of its spread, drawn as a whisker in the SVG
  std::string note = {};     // behind the value
};

// A line a bar, the longest `width` cells, in eighths of a cell.
std::string TextBars(const std::vector<Bar>& bars, const std::string& unit, int width = 40);

// A whole SVG document: horizontal bars with labels, values and whiskers. Text is escaped.
std::string SvgBars(const std::string& title, const std::string& unit, const std::vector<Bar>& bars);

}  // namespace tandem::cli
