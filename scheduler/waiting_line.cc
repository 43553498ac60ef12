#include "scheduler/waiting_line.h"

#include <algorithm>
#include <utility>

namespace tandem::scheduler {
namespace {

// The next of one tenant.
struct Cursor {
  int64_t key_us = 0;
  std::set<Sequence*, ByRank>::const_iterator next;
  std::set<Sequence*, ByRank>::const_iterator end;
  int64_t turn = 0;
};

// For heaps, whose top is the greatest.
bool ServedLater(const Cursor& a, const Cursor& b) {
  if (a.key_us != b.key_us) return a.key_us > b.key_us;
  return (*b.next)->rank < (*a.next)->rank;
}

}  // namespace

TenantLine* WaitingLine::Open(const std::string& tenant) {
  const std::string& name = tenant_turn_us_ > 0 ? tenant : std::string();
  TenantLine& line = lines_[name];
  line.name = name;
  ++line.open_requests;
  return &line;
}

void WaitingLine::Close(TenantLine* line) {
  if (--line->open_requests > 0) return;
  lines_.erase(lines_.find(line->name));
}

std::vector<Sequence*> WaitingLine::First(size_t count) const {
  std::vector<Cursor> heap;
  for (const auto& [name, line] : lines_) {
    if (line.waiting.empty()) continue;
    Cursor cursor;
    cursor.next = line.waiting.begin();
    cursor.end = line.waiting.end();
    cursor.turn = line.seats;
    cursor.key_us = (*cursor.next)->rank.key_us + cursor.turn * tenant_turn_us_;
    heap.push_back(cursor);
  }
  std::make_heap(heap.begin(), heap.end(), ServedLater);
  std::vector<Sequence*> first;
  while (first.size() < count && !heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), ServedLater);
    Cursor& cursor = heap.back();
    first.push_back(*cursor.next);
    if (++cursor.next == cursor.end) {
      heap.pop_back();
      continue;
    }
    ++cursor.turn;
    cursor.key_us = (*cursor.next)->rank.key_us + cursor.turn * tenant_turn_us_;
    std::push_heap(heap.begin(), heap.end(), ServedLater);
  }
  return first;
}

}  // namespace tandem::scheduler
