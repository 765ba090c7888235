#include "verifier/engine/row_store.h"

#include <gtest/gtest.h>

#include <cstring>

#include "common/kernels/half.h"

namespace tandem::verifier {
namespace {

using speculation::RowType;

constexpr int kWidth = 3;

std::unique_ptr<RowStore> MakeStore(RowType type = RowType::kF32) {
  return *RowStore::Create(type, kWidth, 4);
}

void Put(RowStore& rows, int block, int slot, float value) {
  const float row[kWidth] = {value, value + 0.5f, -value};
  if (rows.Mark(block, slot)) rows.Write(block, slot, row);
}

float First(const RowStore& rows, int block, int slot) {
  float value;
  std::memcpy(&value, rows.Row(block, slot).data(), sizeof(value));
  return value;
}

TEST(RowStoreTest, RowsAreThereFromTheFirstPositionOn) {
  auto rows = MakeStore();
  rows->UseProjection("a");
  EXPECT_FALSE(rows->Has(1, 1));
  for (int slot = 0; slot < 5; ++slot) Put(*rows, 1, slot, static_cast<float>(slot));
  EXPECT_TRUE(rows->Has(1, 5));
  EXPECT_FALSE(rows->Has(1, 6));
  EXPECT_FALSE(rows->Has(2, 1));
  EXPECT_EQ(First(*rows, 1, 3), 3.0f);
}

TEST(RowStoreTest, ARejectedDraftsRowIsOverwritten) {
  auto rows = MakeStore();
  rows->UseProjection("a");
  for (int slot = 0; slot < 4; ++slot) Put(*rows, 0, slot, 1.0f);
  Put(*rows, 0, 2, 7.0f);
  EXPECT_EQ(First(*rows, 0, 2), 7.0f);
  EXPECT_TRUE(rows->Has(0, 4));
}

TEST(RowStoreTest, RowsOfAnotherProjectionAreVoidUntilTheBlockBeginsAnew) {
  auto rows = MakeStore();
  rows->UseProjection("a");
  Put(*rows, 0, 0, 1.0f);
  rows->UseProjection("a");
  EXPECT_TRUE(rows->Has(0, 1));
  rows->UseProjection("b");
  EXPECT_FALSE(rows->Has(0, 1));
  Put(*rows, 0, 1, 2.0f);  // its beginning is of the other projection
  EXPECT_FALSE(rows->Has(0, 1));
  EXPECT_FALSE(rows->Has(0, 2));
  Put(*rows, 0, 0, 3.0f);
  EXPECT_TRUE(rows->Has(0, 1));
  EXPECT_FALSE(rows->Has(0, 2));
}

TEST(RowStoreTest, AGapOrAVoidedBlockHasNoRowsBehindIt) {
  auto rows = MakeStore();
  rows->UseProjection("a");
  Put(*rows, 0, 0, 1.0f);
  Put(*rows, 0, 2, 1.0f);
  EXPECT_FALSE(rows->Has(0, 3));
  EXPECT_TRUE(rows->Has(0, 1));
  rows->Void(0);
  EXPECT_FALSE(rows->Has(0, 1));
}

TEST(RowStoreTest, ATwinGivesWhatIsLacking) {
  auto rows = MakeStore();
  rows->UseProjection("a");
  for (int slot = 0; slot < 16; ++slot) Put(*rows, 3, slot, static_cast<float>(slot));
  rows->Adopt(0, 3);
  EXPECT_TRUE(rows->Has(0, 16));
  EXPECT_EQ(First(*rows, 0, 15), 15.0f);
  rows->Adopt(0, 2);  // which has none
  EXPECT_TRUE(rows->Has(0, 16));
}

TEST(RowStoreTest, Bf16RowsAreRoundedToNearest) {
  auto rows = MakeStore(RowType::kBF16);
  rows->UseProjection("a");
  const float row[kWidth] = {1.0f + 0x1p-9f + 0x1p-12f, -2.0f, 3.0f};
  ASSERT_TRUE(rows->Mark(0, 0));
  rows->Write(0, 0, row);
  ASSERT_EQ(rows->Row(0, 0).size(), kWidth * sizeof(uint16_t));
  uint16_t half;
  std::memcpy(&half, rows->Row(0, 0).data(), sizeof(half));
  EXPECT_EQ(half, kernels::BF16FromFloat(row[0]));
  EXPECT_EQ(RowStore::BlockBytes(RowType::kBF16, kWidth), 16 * kWidth * 2);
}

}  // namespace
}  // namespace tandem::verifier
