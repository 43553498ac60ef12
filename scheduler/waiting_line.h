// Who waits for a seat, in the order of service: tenants take turns, age and priority count too.
//
//   key = rank.key_us + turn * tenant_turn_us                 smaller first, equals by rank
//   turn = seats of the tenant + its waiting sequences of better rank
//
// A turn counts like an arrival `tenant_turn_us` later: behind a tenant's backlog a newcomer of
// another tenant does not wait, and a backlog that has waited long enough goes before newcomers.
// Within a tenant the order is that of ranks.
//
// Not here  who is seated in a step, and for whom others give their seats (plan_step.h).
// Threads   scheduler thread only.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "scheduler/sequence.h"

namespace tandem::scheduler {

struct ByRank {
  bool operator()(const Sequence* a, const Sequence* b) const { return a->rank < b->rank; }
};

// What a tenant has here.
struct TenantLine {
  std::string name;
  int open_requests = 0;
  int seats = 0;  // raised and lowered by the roster
  std::set<Sequence*, ByRank> waiting;
};

class WaitingLine {
 public:
  explicit WaitingLine(int64_t tenant_turn_us) : tenant_turn_us_(tenant_turn_us) {}

  // The line of the request's tenant, for RequestState::tenant; one for everybody when tenants are
  // not told apart. It stays valid until Close was called as often as Open.
  TenantLine* Open(const std::string& tenant);
  void Close(TenantLine* line);

  void Join(Sequence& sequence) { sequence.request->tenant->waiting.insert(&sequence); }
  void Leave(Sequence& sequence) { sequence.request->tenant->waiting.erase(&sequence); }

  // The first `count` in the order of service, or all.
  std::vector<Sequence*> First(size_t count) const;

 private:
  const int64_t tenant_turn_us_;
  std::map<std::string, TenantLine> lines_;
};

}  // namespace tandem::scheduler
