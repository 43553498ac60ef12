#include "scheduler/plan_seats.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "kvcache/block_table.h"

namespace tandem::scheduler {
namespace {

bool HasGroup(const PlanInput& in, int group) { return in.limits.num_blocks[group] > 0; }

// Blocks that a sequence still has to get, at most at a time, to run all its known tokens and one
// more.
//   table  entries that its block table has
//   own    blocks that it alone holds, so that they come back when they leave the window
int64_t BlocksToGet(const PlanInput& in, const SeqState& state, int group, int64_t table,
                    int64_t own) {
  if (!HasGroup(in, group)) return 0;
  const int all = kvcache::BlocksFor(int64_t{state.known_tokens} + 1, in.limits.block_tokens);
  int64_t blocks = all - table;
  if (group == engine::kSliding) blocks = std::min(blocks, SlidingBlocksHeld(in.limits) - own);
  return std::max<int64_t>(0, blocks);
}

int64_t SeatedBlocksToGet(const PlanInput& in, const Sharing& sharing, int seq, int group) {
  const SeqState& state = in.seated[seq];
  return BlocksToGet(in, state, group, state.blocks[group].table, sharing.own[seq][group]);
}

// Seats and blocks, while it is decided who gets a seat.
struct Room {
  int64_t seats = 0;              // taken
  BlockAccount blocks;            // free ones beside what all the seated still have to get
  std::vector<int> tenant_seats;  // by tenant
  std::vector<bool> out;          // by seated sequence: it makes room
};

Room RoomOf(const PlanInput& in, const Sharing& sharing) {
  Room room = {.seats = static_cast<int64_t>(in.seated.size()),
               .blocks = BlockAccount(in, sharing),
               .tenant_seats = std::vector<int>(in.seated.size() + in.waiting.size()),
               .out = std::vector<bool>(in.seated.size())};
  for (size_t seq = 0; seq < in.seated.size(); ++seq) {
    ++room.tenant_seats[in.seated[seq].tenant];
    for (int g = 0; g < engine::kNumKvGroups; ++g) {
      room.blocks.Add(g, -SeatedBlocksToGet(in, sharing, static_cast<int>(seq), g));
    }
  }
  return room;
}

// A waiting sequence.
struct Newcomer {
  const SeqState* state = nullptr;
  int seq = 0;
};

// Blocks that it still has to get once it has reused what it can.
int64_t BlocksBehindReuse(const PlanInput& in, const Newcomer& newcomer, int group,
                          const Blocks& cost_of_reuse) {
  return BlocksToGet(in, *newcomer.state, group,
                     newcomer.state->reuse.tokens / in.limits.block_tokens, cost_of_reuse[group]);
}

bool Fits(const PlanInput& in, const Room& room, const Newcomer& newcomer) {
  if (room.seats >= in.config.max_slots) return false;
  const Blocks cost = room.blocks.CostOfReuse(newcomer.seq);
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    if (!HasGroup(in, g)) continue;
    const int64_t blocks = cost[g] + BlocksBehindReuse(in, newcomer, g, cost);
    // One block to grow for everybody seated before, or they would be at each other's throat soon.
    if (blocks + room.seats > room.blocks.free()[g]) return false;
  }
  return true;
}

void TakeSeat(const PlanInput& in, const Newcomer& newcomer, Room& room) {
  ++room.seats;
  ++room.tenant_seats[newcomer.state->tenant];
  const Blocks cost = room.blocks.CostOfReuse(newcomer.seq);
  room.blocks.TakeReuse(newcomer.seq);
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    room.blocks.Add(g, -BlocksBehindReuse(in, newcomer, g, cost));
  }
}

void GiveSeat(const PlanInput& in, const Sharing& sharing, int seq, Room& room) {
  room.out[seq] = true;
  --room.seats;
  --room.tenant_seats[in.seated[seq].tenant];
  room.blocks.Leave(seq);
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    room.blocks.Add(g, SeatedBlocksToGet(in, sharing, seq, g));
  }
}

// Whether a seated sequence before `seq` has the same tenant.
bool HasBetterOfItsTenant(const PlanInput& in, const Room& room, int seq) {
  for (int i = 0; i < seq; ++i) {
    if (!room.out[i] && in.seated[i].tenant == in.seated[seq].tenant) return true;
  }
  return false;
}

// The worst-ranked of the tenant with most seats, when these are two more than `tenant` has;
// else -1. Never the best-ranked of its tenant.
int SwapVictim(const PlanInput& in, const Room& room, int tenant) {
  const int most = *std::max_element(room.tenant_seats.begin(), room.tenant_seats.end());
  if (most <= room.tenant_seats[tenant] + 1) return -1;
  for (int i = static_cast<int>(in.seated.size()) - 1; i >= 0; --i) {
    if (!room.out[i] && room.tenant_seats[in.seated[i].tenant] == most &&
        HasBetterOfItsTenant(in, room, i)) {
      return i;
    }
  }
  return -1;
}

// Makes room for `newcomer`: paused sequences go first, then, if it may swap, those of the tenant
// with most seats. Changes nothing when even that is not enough.
//   returns  whether there is room, and whether it took a swap
struct RoomMade {
  bool made = false;
  bool swapped = false;
};
RoomMade MakeRoom(const PlanInput& in, const Sharing& sharing, const Newcomer& newcomer,
                  bool may_swap, Room& room) {
  Room trial = room;
  bool swapped = false;
  for (int i = static_cast<int>(in.seated.size()) - 1; i >= 0 && !Fits(in, trial, newcomer); --i) {
    if (in.seated[i].paused && !trial.out[i]) GiveSeat(in, sharing, i, trial);
  }
  while (!Fits(in, trial, newcomer)) {
    const int victim = may_swap ? SwapVictim(in, trial, newcomer.state->tenant) : -1;
    if (victim < 0) return {};
    GiveSeat(in, sharing, victim, trial);
    swapped = true;
  }
  room = std::move(trial);
  return {.made = true, .swapped = swapped};
}

}  // namespace

SeatChoice ChooseSeats(const PlanInput& in, const Sharing& sharing) {
  SeatChoice choice;
  const int num_seated = static_cast<int>(in.seated.size());
  Room room = RoomOf(in, sharing);
  choice.candidates.reserve(in.seated.size() + in.waiting.size());
  int swaps = 0;
  for (size_t i = 0; i < in.waiting.size(); ++i) {
    const Newcomer newcomer = {.state = &in.waiting[i], .seq = num_seated + static_cast<int>(i)};
    SeatCandidate candidate = {.seq = newcomer.seq};
    if (!Fits(in, room, newcomer)) {
      const RoomMade room_made = MakeRoom(in, sharing, newcomer, swaps < kMaxSwaps, room);
      if (!room_made.made) break;
      swaps += room_made.swapped;
      candidate.must_seat = true;
    }
    TakeSeat(in, newcomer, room);
    choice.candidates.push_back(candidate);
  }
  for (int i = 0; i < num_seated; ++i) {
    if (room.out[i]) {
      choice.make_room.push_back(i);
    } else {
      choice.candidates.push_back({.seq = i});
    }
  }
  return choice;
}

}  // namespace tandem::scheduler
