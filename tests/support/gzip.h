// Reads gzip files (golden tokenizer files are stored compressed).
#pragma once

#include <zlib.h>

#include <filesystem>
#include <string>

namespace tandem::testing {

// The decompressed content; empty if the file cannot be read or is damaged (callers assert on content).
inline std::string ReadGzip(const std::filesystem::path& path) {
  std::string text;
  const gzFile file = gzopen(path.c_str(), "rb");
  if (file == nullptr) return text;
  char buffer[1 << 16];
  int n = 0;
  while ((n = gzread(file, buffer, sizeof(buffer))) > 0) text.append(buffer, n);
  const bool good = n == 0 && gzclose(file) == Z_OK;
  return good ? text : std::string();
}

}  // namespace tandem::testing
