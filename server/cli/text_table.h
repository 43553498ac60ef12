// A table as Markdown or CSV.
#pragma once

#include <string>
#include <vector>

namespace tandem::server {

struct TextTable {
  struct Column {
    std::string title;
    bool number = false;  // aligned to the right
  };
  std::vector<Column> columns;
  std::vector<std::vector<std::string>> rows;  // as many cells as columns
};

// Padded, so that it reads well without being rendered. A bar in a cell is escaped.
std::string MarkdownText(const TextTable& table);
// RFC 4180: cells with commas, quotes or line breaks in quotes. Lines end with \n.
std::string CsvText(const TextTable& table);

}  // namespace tandem::server
