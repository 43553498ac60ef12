#include "server/cli/text_table.h"

#include <algorithm>
#include <string_view>

namespace tandem::server {
namespace {

// Characters of UTF-8 text, each taken as one column wide.
size_t Width(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

std::string MarkdownCell(std::string_view text) {
  std::string cell;
  for (const char c : text) {
    if (c == '|') cell += '\\';
    cell += c == '\n' ? ' ' : c;
  }
  return cell;
}

std::string CsvCell(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string cell = "\"";
  for (const char c : text) {
    if (c == '"') cell += '"';
    cell += c;
  }
  return cell + "\"";
}

}  // namespace

std::string MarkdownText(const TextTable& table) {
  std::vector<std::vector<std::string>> rows(1);
  for (const TextTable::Column& column : table.columns) {
    rows[0].push_back(MarkdownCell(column.title));
  }
  for (const std::vector<std::string>& row : table.rows) {
    std::vector<std::string>& cells = rows.emplace_back();
    for (const std::string& text : row) cells.push_back(MarkdownCell(text));
  }
  std::vector<size_t> widths(table.columns.size(), 3);
  for (const std::vector<std::string>& row : rows) {
    for (size_t i = 0; i < widths.size(); ++i) widths[i] = std::max(widths[i], Width(row[i]));
  }
  std::string text;
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t i = 0; i < widths.size(); ++i) {
      const std::string blanks(widths[i] - Width(rows[r][i]), ' ');
      text += "| " + (table.columns[i].number ? blanks + rows[r][i] : rows[r][i] + blanks) + " ";
    }
    text += "|\n";
    if (r > 0) continue;
    for (size_t i = 0; i < widths.size(); ++i) {
      text += "| " + std::string(widths[i] - 1, '-') + (table.columns[i].number ? ": " : "- ");
    }
    text += "|\n";
  }
  return text;
}

std::string CsvText(const TextTable& table) {
  std::string text;
  for (size_t i = 0; i < table.columns.size(); ++i) {
    text += (i > 0 ? "," : "") + CsvCell(table.columns[i].title);
  }
  text += "\n";
  for (const std::vector<std::string>& row : table.rows) {
    for (size_t i = 0; i < row.size(); ++i) text += (i > 0 ? "," : "") + CsvCell(row[i]);
    text += "\n";
  }
  return text;
}

}  // namespace tandem::server
