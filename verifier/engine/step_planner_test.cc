#include "verifier/engine/step_planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <vector>

namespace tandem::verifier {

// For failure messages and ElementsAre: rows, then drafts.
bool operator==(const SequenceRowsPlan& a, const SequenceRowsPlan& b) {
  return a.rows == b.rows && a.drafts == b.drafts;
}
void PrintTo(const SequenceRowsPlan& plan, std::ostream* os) {
  *os << "{rows " << plan.rows << ", drafts " << plan.drafts << "}";
}

namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

SequenceWish Decoding(uint64_t number, int32_t drafts = 0, size_t stream = 0) {
  return {number, stream, 1, drafts};
}
SequenceWish Prompt(uint64_t number, int32_t missing, size_t stream = 0) {
  return {number, stream, missing, 0};
}

struct Case {
  const char* what;
  StepLimits limits;
  std::vector<SequenceWish> wishes;
  std::vector<int64_t> budgets;
  std::vector<SequenceRowsPlan> plan;
};

void ExpectPlans(std::span<const Case> cases) {
  for (const Case& c : cases) {
    StepPlanner planner;
    EXPECT_THAT(planner.Plan(c.limits, c.wishes, c.budgets), ElementsAreArray(c.plan)) << c.what;
  }
}

// Whose anchors are in the step.
std::vector<uint64_t> Served(StepPlanner& planner, const StepLimits& limits,
                             const std::vector<SequenceWish>& wishes) {
  const auto plan = planner.Plan(limits, wishes, std::vector<int64_t>{0});
  std::vector<uint64_t> served;
  for (size_t i = 0; i < wishes.size(); ++i) {
    if (plan[i].rows > 0) served.push_back(wishes[i].admission_number);
  }
  return served;
}

TEST(StepPlannerTest, AnchorsThatDoNotAllFitAreServedInTurn) {
  StepPlanner planner;
  const StepLimits limits{2, 2, 8};
  std::vector<SequenceWish> wishes = {Decoding(1), Decoding(2), Decoding(4), Decoding(5), Decoding(9)};
  EXPECT_THAT(Served(planner, limits, wishes), ElementsAre(1, 2));
  EXPECT_THAT(Served(planner, limits, wishes), ElementsAre(4, 5));
  EXPECT_THAT(Served(planner, limits, wishes), ElementsAre(1, 9));
  EXPECT_THAT(Served(planner, limits, wishes), ElementsAre(2, 4));
  wishes.erase(wishes.begin() + 2);  // the last one served ends: its successor is next all the same
  EXPECT_THAT(Served(planner, limits, wishes), ElementsAre(5, 9));
  wishes.push_back(Decoding(10));  // a new one waits for its turn and gets it
  EXPECT_THAT(Served(planner, limits, wishes), ElementsAre(1, 10));
}

TEST(StepPlannerTest, NoAnchorWaitsLongerThanOneRound) {
  for (const int room : {1, 2, 3, 5, 7}) {
    for (const bool scarce_logits : {false, true}) {
      StepPlanner planner;
      const StepLimits limits{scarce_logits ? 100 : room, room, 8};
      std::vector<SequenceWish> wishes;
      for (uint64_t number = 1; number <= 7; ++number) wishes.push_back(Decoding(number));
      const int round = (7 + room - 1) / room;
      std::map<uint64_t, int> last_step;
      for (int step = 1; step <= 50; ++step) {
        for (const uint64_t number : Served(planner, limits, wishes)) {
          ASSERT_LE(step - last_step[number], round) << "sequence " << number << ", room " << room;
          last_step[number] = step;
        }
      }
      for (const auto& [number, step] : last_step) EXPECT_GT(step, 50 - round) << number;
      EXPECT_EQ(last_step.size(), 7u);
    }
  }
}

TEST(StepPlannerTest, DraftsAreTakenPositionByPosition) {
  const Case kCases[] = {
      {"room for all", {100, 100, 8}, {Decoding(1, 4), Decoding(2, 1)}, {0}, {{1, 4}, {1, 1}}},
      {"7 rows left: 3 first ones, 2 second, 2 third",
       {10, 100, 8},
       {Decoding(1, 4), Decoding(2, 1), Decoding(3, 4)},
       {0},
       {{1, 3}, {1, 1}, {1, 3}}},
      {"6 rows left: the older one has the third",
       {9, 100, 8},
       {Decoding(1, 4), Decoding(2, 1), Decoding(3, 4)},
       {0},
       {{1, 3}, {1, 1}, {1, 2}}},
      {"logits rows end it as well",
       {100, 5, 8},
       {Decoding(1, 4), Decoding(2, 1), Decoding(3, 4)},
       {0},
       {{1, 1}, {1, 1}, {1, 0}}},
      {"none behind an anchor that is not in the step",
       {2, 100, 8},
       {Decoding(1, 4), Decoding(2, 4), Decoding(3, 4)},
       {0},
       {{1, 0}, {1, 0}, {0, 0}}},
      {"anchors have all the room", {2, 2, 8}, {Decoding(1, 7), Decoding(2, 7)}, {0}, {{1, 0}, {1, 0}}},
  };
  ExpectPlans(kCases);
}

TEST(StepPlannerTest, DraftsLeaveHalfOfTheRoomToPromptsThatWait) {
  const Case kCases[] = {
      {"10 left: 5 and 5", {11, 100, 64}, {Decoding(1, 8), Prompt(2, 100)}, {0}, {{1, 5}, {5, 0}}},
      {"9 left: the odd one is the prompt's",
       {10, 100, 64},
       {Decoding(1, 8), Prompt(2, 100)},
       {0},
       {{1, 4}, {5, 0}}},
      {"drafts that want less leave more",
       {11, 100, 64},
       {Decoding(1, 2), Prompt(2, 100)},
       {0},
       {{1, 2}, {8, 0}}},
      {"and prompts that want less too",
       {11, 100, 64},
       {Decoding(1, 9), Prompt(2, 2)},
       {0},
       {{1, 8}, {2, 0}}},
      {"a budget is what a prompt wants",
       {11, 100, 64},
       {Decoding(1, 9), Prompt(2, 100)},
       {3},
       {{1, 7}, {3, 0}}},
      {"a chunk as well", {11, 100, 3}, {Decoding(1, 9), Prompt(2, 100)}, {0}, {{1, 7}, {3, 0}}},
      {"half of the logits rows, of as many as there are prompts",
       {100, 4, 64},
       {Decoding(1, 9), Prompt(2, 10), Prompt(3, 10), Prompt(4, 10)},
       {0},
       {{1, 1}, {10, 0}, {10, 0}, {9, 0}}},
      {"one that is held back does not count",
       {11, 100, 64},
       {Decoding(1, 10), Prompt(2, 0)},
       {0},
       {{1, 10}, {0, 0}}},
  };
  ExpectPlans(kCases);
}

TEST(StepPlannerTest, PromptsShareWhatIsLeft) {
  const Case kCases[] = {
      {"in admission order, chunk by chunk",
       {40, 40, 16},
       {Prompt(1, 100), Prompt(2, 100), Prompt(3, 100)},
       {0},
       {{16, 0}, {16, 0}, {8, 0}}},
      {"fairly between streams",
       {40, 40, 16},
       {Prompt(1, 100, 0), Prompt(2, 100, 0), Prompt(3, 100, 1)},
       {0, 0},
       {{16, 0}, {8, 0}, {16, 0}}},
      {"what a stream does not want goes to the other",
       {40, 40, 64},
       {Prompt(1, 100, 0), Prompt(2, 5, 1)},
       {0, 0},
       {{35, 0}, {5, 0}}},
      {"a budget binds its stream only",
       {40, 40, 64},
       {Prompt(1, 3, 0), Prompt(2, 100, 0), Prompt(3, 100, 1)},
       {5, 0},
       {{3, 0}, {2, 0}, {35, 0}}},
      {"a budget above the room is the room", {40, 40, 64}, {Prompt(1, 100)}, {1000}, {{40, 0}}},
      {"behind the anchors",
       {5, 5, 16},
       {Decoding(1), Prompt(2, 100), Decoding(3)},
       {0},
       {{1, 0}, {3, 0}, {1, 0}}},
      {"none while anchors take all",
       {2, 2, 16},
       {Decoding(1), Prompt(2, 100), Decoding(3)},
       {0},
       {{1, 0}, {0, 0}, {1, 0}}},
      {"nobody is there", {40, 40, 16}, {}, {0, 0}, {}},
  };
  ExpectPlans(kCases);
}

TEST(StepPlannerTest, StreamsTakeTurnsAtWhatDoesNotDivide) {
  StepPlanner planner;
  const std::vector<SequenceWish> wishes = {Prompt(1, 100, 0), Prompt(2, 100, 1)};
  const std::vector<int64_t> budgets = {0, 0};
  const SequenceRowsPlan one{1, 0}, two{2, 0};
  EXPECT_THAT(planner.Plan({3, 3, 16}, wishes, budgets), ElementsAre(two, one));
  EXPECT_THAT(planner.Plan({3, 3, 16}, wishes, budgets), ElementsAre(one, two));
  EXPECT_THAT(planner.Plan({3, 3, 16}, wishes, budgets), ElementsAre(two, one));
}

TEST(StepPlannerTest, AChunkWithoutALogitsRowStopsOneShort) {
  const Case kCases[] = {
      {"anchors have them all", {100, 1, 64}, {Decoding(1), Prompt(2, 10)}, {0}, {{1, 0}, {9, 0}}},
      {"the first prompt has it", {100, 1, 64}, {Prompt(1, 10), Prompt(2, 10)}, {0}, {{10, 0}, {9, 0}}},
      {"a chunk that does not reach the anchor needs none",
       {100, 1, 4},
       {Decoding(1), Prompt(2, 10)},
       {0},
       {{1, 0}, {4, 0}}},
      {"and leaves it to the next", {100, 1, 4}, {Prompt(1, 10), Prompt(2, 4)}, {0}, {{4, 0}, {4, 0}}},
      {"one short of two is one", {100, 1, 64}, {Decoding(1), Prompt(2, 2)}, {0}, {{1, 0}, {1, 0}}},
  };
  ExpectPlans(kCases);
}

TEST(StepPlannerTest, AResultIsForgottenByTheNextPlan) {
  StepPlanner planner;
  const std::vector<int64_t> budgets = {0};
  planner.Plan({100, 100, 64}, std::vector{Decoding(1, 7), Prompt(2, 50)}, budgets);
  const SequenceRowsPlan anchor{1, 0};
  EXPECT_THAT(planner.Plan({100, 100, 64}, std::vector{Decoding(1), Decoding(2)}, budgets),
              ElementsAre(anchor, anchor));
}

}  // namespace
}  // namespace tandem::verifier
