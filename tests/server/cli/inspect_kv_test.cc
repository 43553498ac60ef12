// What KV is said to cost: the published tables, and that inspection, plan and allocation agree.

#include "server/cli/inspect_kv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "kvcache/block_store.h"
#include "server/cli/loaded_engine.h"
#include "server/config/kv_setting.h"

namespace tandem::server {
namespace {

using engine::kFull;
using engine::kSliding;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr FreeMemory kRoomy = {.bytes = 200 * kGiB, .limit = "on this machine"};

ModelSource Source(const std::string& shape) {
  absl::StatusOr<engine::ModelConfig> config = engine::PublishedShape(shape);
  EXPECT_TRUE(config.ok()) << config.status();
  return {.name = shape, .variant = shape, .config = *std::move(config)};
}

KvFootprint Footprint(const std::string& shape, const Settings& settings) {
  const ModelSource source = Source(shape);
  const auto layouts = KvLayoutsOf(source.config, KvFormatsOf(settings), settings.block_tokens);
  EXPECT_TRUE(layouts.ok()) << layouts.status();
  return FootprintOf(source.config, *layouts, settings.block_tokens);
}

Settings Type(const std::string& kv_type) {
  Settings settings;
  settings.kv_type = kv_type;
  return settings;
}

Settings Unprotected(const std::string& kv_type) {
  Settings settings = Type(kv_type);
  settings.kv_protect_first = 0;
  settings.kv_protect_last = 0;
  return settings;
}

TEST(KvFootprintTest, BytesPerTokenEqualThePublishedTable) {
  // turboquant 6.5, by f16, q8, q8/turbo4, turbo4, turbo3, turbo2: full and sliding layers.
  const std::vector<std::string> types = {"f16", "q8", "q8/turbo4", "turbo4", "turbo3", "turbo2"};
  const std::map<std::string, std::array<std::vector<uint64_t>, 2>> published = {
      {"e2b", {{{6144, 3084, 2316, 1548, 1164, 780}, {12288, 6192, 4656, 3120, 2352, 1584}}}},
      {"e4b", {{{16384, 8224, 6176, 4128, 3104, 2080}, {40960, 20640, 15520, 10400, 7840, 5280}}}},
      {"12b",
       {{{16384, 8224, 6176, 4128, 3104, 2080}, {327680, 165120, 124160, 83200, 62720, 42240}}}},
      {"26b",
       {{{20480, 10280, 7720, 5160, 3880, 2600}, {204800, 103200, 77600, 52000, 39200, 26400}}}},
      {"31b",
       {{{81920, 41120, 30880, 20640, 15520, 10400},
         {819200, 412800, 310400, 208000, 156800, 105600}}}}};
  for (const auto& [shape, bytes] : published) {
    for (size_t t = 0; t < types.size(); ++t) {
      const KvFootprint kv = Footprint(shape, Unprotected(types[t]));
      // Blocks are rounded up to 256 bytes, 8 per token.
      for (const auto& [group, expected] :
           {std::pair(kFull, bytes[0][t]), {kSliding, bytes[1][t]}}) {
        EXPECT_GE(kv.bytes_per_token(group), expected) << shape << " " << types[t];
        EXPECT_LT(kv.bytes_per_token(group), expected + 8) << shape << " " << types[t];
      }
    }
  }
}

TEST(KvFootprintTest, ProtectedLayersCostWhatThePublishedPresetDoes) {
  const std::map<std::string, std::pair<uint64_t, uint64_t>> published = {{"e2b", {2060, 3888}},
                                                                          {"e4b", {5152, 11936}},
                                                                          {"12b", {4640, 89344}},
                                                                          {"26b", {6184, 58144}},
                                                                          {"31b", {22688, 220288}}};
  for (const auto& [shape, bytes] : published) {
    const KvFootprint kv = Footprint(shape, Type("compact"));
    EXPECT_NEAR(kv.bytes_per_token(kFull), bytes.first, 8) << shape;
    EXPECT_NEAR(kv.bytes_per_token(kSliding), bytes.second, 8) << shape;
  }
}

TEST(KvFootprintTest, SharesOfBf16StayBelowTheirBounds) {
  const std::map<std::string, double> bounds = {
      {"q8", 0.51}, {"turbo4", 0.26}, {"turbo3", 0.20}, {"turbo2", 0.14}};
  for (const char* shape : {"e2b", "e4b", "12b", "26b", "31b"}) {
    const KvFootprint bf16 = Footprint(shape, Type("bf16"));
    for (const auto& [type, bound] : bounds) {
      const KvFootprint kv = Footprint(shape, Unprotected(type));
      for (const engine::KvGroup group : {kSliding, kFull}) {
        EXPECT_LE(static_cast<double>(kv.block_bytes[group]), bound * bf16.block_bytes[group])
            << shape << " " << type;
      }
    }
  }
}

TEST(KvFootprintTest, Turbo4HoldsNearlyFourTimesTheSequencesOfBf16) {
  for (const char* shape : {"e2b", "e4b", "12b", "26b", "31b"}) {
    const auto sequences = [&](const char* type) {
      const KvFootprint kv = Footprint(shape, Unprotected(type));
      return SequencesThatFit(kv, 48 * kGiB, StepBlocks(kv, 512, 16), 8192);
    };
    EXPECT_GE(static_cast<double>(sequences("turbo4")), 3.7 * sequences("bf16")) << shape;
  }
}

TEST(InspectKvTest, InspectionPlanAndAllocationAgreeToTheByte) {
  for (const char* type : {"f32", "q8", "turbo4", "turbo3", "turbo2", "max", "bf16/turbo3"}) {
    for (const int block_tokens : {16, 32, 64}) {
      // Given what serve would plan,
      Settings settings = Type(type);
      settings.block_tokens = block_tokens;
      settings.kv_memory = {.bytes = kGiB};
      const ModelSource source = Source("e2b");
      const auto plan = PlanMemory(source.config, ServingMemory(settings, source), kRoomy);
      ASSERT_TRUE(plan.ok()) << plan.status();
      // what inspect prints of it, and of that type,
      const nlohmann::ordered_json groups = KvGroupsJson(*plan);
      const std::vector<KvChoice> choices = KvChoices(settings, source.config, plan);
      const nlohmann::ordered_json listed = KvChoicesJson(choices, KvLengths(source.config));
      nlohmann::ordered_json own;
      for (const auto& entry : listed) {
        if (entry["kv_type"] == type) own = entry;
      }
      // and stores as serve makes them.
      const auto layouts = KvLayoutsOf(source.config, KvFormatsOf(settings), block_tokens);
      ASSERT_TRUE(layouts.ok()) << layouts.status();
      uint64_t allocated = 0;
      for (const auto& [group, name] : {std::pair(kSliding, "sliding"), {kFull, "full"}}) {
        const auto store = kvcache::BlockStore::Create(*(*layouts)[group], plan->num_blocks[group]);
        ASSERT_TRUE(store.ok()) << store.status();
        allocated += store->bytes();
        // Then all of them say the same.
        EXPECT_EQ(groups[group]["group"], name);
        EXPECT_EQ(groups[group]["bytes"], store->bytes()) << type;
        EXPECT_EQ(groups[group]["block_bytes"], store->layout().block_bytes) << type;
        EXPECT_EQ(own[name]["block_bytes"], store->layout().block_bytes) << type;
        EXPECT_EQ(own[name]["bytes_per_token"].get<uint64_t>() * block_tokens,
                  store->layout().block_bytes);
      }
      EXPECT_EQ(plan->kv_bytes, allocated) << type;
      EXPECT_LE(allocated, kGiB);
    }
  }
}

TEST(InspectKvTest, SequencesAreThoseThatAPlanForTheirLengthSeats) {
  Settings settings = Type("q8");
  settings.max_slots = 1024;
  settings.max_step_rows = 2048;
  settings.prefix_cache = "off";
  settings.kv_memory = {.bytes = 2 * kGiB};
  const ModelSource source = Source("e4b");
  const auto plan = PlanMemory(source.config, ServingMemory(settings, source), kRoomy);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const std::vector<KvChoice> choices = KvChoices(settings, source.config, plan);
  const std::vector<int> lengths = KvLengths(source.config);
  EXPECT_THAT(lengths, ElementsAre(8192, 32768, 131072));
  for (const KvChoice& choice : choices) {
    if (choice.name != "q8") continue;
    for (size_t i = 0; i < lengths.size(); ++i) {
      Settings longer = settings;
      longer.max_context = lengths[i];
      const auto fitted = PlanMemory(source.config, ServingMemory(longer, source), kRoomy);
      ASSERT_TRUE(fitted.ok()) << fitted.status();
      // Rounding down to whole blocks of both groups may differ by one.
      EXPECT_NEAR(fitted->sequences, choice.sequences[i], 1) << lengths[i];
    }
  }
}

TEST(InspectKvTest, AShortModelIsCountedAtItsLongestContext) {
  ModelSource source = Source("e2b");
  source.config.max_positions = 4096;
  EXPECT_THAT(KvLengths(source.config), ElementsAre(4096));
}

TEST(InspectKvTest, ATypeOfItsOwnJoinsTheList) {
  const ModelSource source = Source("e2b");
  const Settings settings = Type("q8/turbo2");
  const auto plan = PlanMemory(source.config, ServingMemory(settings, source), kRoomy);
  const std::vector<KvChoice> choices = KvChoices(settings, source.config, plan);
  EXPECT_EQ(choices.size(), KvTypeNames().size() + 1);
  EXPECT_EQ(choices.back().formats, "q8/turbo2, first 2 and last 2 layers q8");
}

TEST(InspectKvTest, ATypeThatProtectsEveryLayerIsListedAsRefused) {
  // Given a model of which three layers have KV of their own.
  ModelSource source = Source("e2b");
  source.config.layers.resize(5);
  for (engine::LayerDesc& layer : source.config.layers) layer.kv_owner = -1;
  for (const int owner : {0, 1, 4}) source.config.layers[owner].kv_owner = owner;
  source.config.layers[2].kv_owner = source.config.layers[3].kv_owner = 1;
  const std::vector<KvChoice> choices =
      KvChoices(Settings{}, source.config, absl::ResourceExhaustedError("no memory"));
  const nlohmann::ordered_json json = KvChoicesJson(choices, KvLengths(source.config));
  for (const auto& entry : json) {
    const bool refused = entry["kv_type"] == "turbo2" || entry["kv_type"] == "compact" ||
                         entry["kv_type"] == "max" || entry["kv_type"] == "turbo3";
    EXPECT_EQ(entry.contains("error"), refused) << entry;
  }
  EXPECT_THAT(KvChoicesText(choices, {8192}), HasSubstr("all: refused"));
}

TEST(InspectKvTest, TablesFitAHundredColumns) {
  // Given the widest numbers: the largest model, all of its 262144 tokens.
  const ModelSource source = Source("31b");
  Settings settings;
  settings.max_slots = 1024;
  settings.kv_memory = {.bytes = 100 * kGiB};
  const auto plan = PlanMemory(source.config, ServingMemory(settings, source), kRoomy);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const std::vector<double> sizes(source.config.num_layers(), 1234.5);
  for (const std::string& text :
       {KvChoicesText(KvChoices(settings, source.config, plan), KvLengths(source.config)),
        LogitNoiseText(source.config, sizes)}) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
  }
}

}  // namespace
}  // namespace tandem::server
