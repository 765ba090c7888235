// A parsed template.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/text/jinja_value.h"

namespace tandem::text::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  enum Kind {
    kConstant,   // constant
    kName,       // name
    kList,       // args
    kTuple,      // args
    kDict,       // args: key, value, key, value, ...
    kAttribute,  // args[0].name
    kItem,       // args[0][args[1]]
    kSlice,      // args[0][args[1]:args[2]:args[3]], the last three may be null
    kCall,       // args[0](args[1..], named)
    kFilter,     // args[0] | name(args[1..], named)
    kTest,       // args[0] is name(args[1..]); `negated` for `is not`
    kNot,        // not args[0]
    kNegate,     // -args[0]
    kPlus,       // +args[0]
    kAnd,
    kOr,
    kCompare,     // args[0] ops[0] args[1] ops[1] args[2] ...; ops: == != < <= > >= in "not in"
    kArithmetic,  // args[0] name args[1]; name: + - * / // %
    kConcat,      // args[0] ~ args[1] ~ ...
    kCondition    // args[1] if args[0] else args[2]; args[2] may be null
  };
  Kind kind;
  int line;
  int height = 1;  // levels below and including this one; bounded
  std::string name;
  bool negated = false;
  Value constant;
  std::vector<ExprPtr> args;
  std::vector<std::pair<std::string, ExprPtr>> named;
  std::vector<std::string> ops;
};

struct Stmt;
using Body = std::vector<std::unique_ptr<Stmt>>;

// What `set` and `for` assign to: one name, several that are unpacked, or a namespace's attribute.
struct Target {
  std::vector<std::string> names;
  bool unpack = false;
  std::string attribute;  // of names[0]; empty: none
};

struct MacroNode {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExprPtr> defaults;  // by parameter; null: none
  Body body;
};

struct Stmt {
  enum Kind {
    kText,      // text
    kPrint,     // expr
    kIf,        // branches in order; a null condition is `else`
    kFor,       // target, expr, filter (may be null), body, otherwise
    kSet,       // target = expr
    kSetBlock,  // target = what body prints
    kMacro,
    kBreak,
    kContinue
  };
  struct Branch {
    ExprPtr condition;
    Body body;
  };
  Kind kind;
  int line;
  Text text;
  ExprPtr expr, filter;
  Target target;
  std::vector<Branch> branches;
  Body body, otherwise;
  MacroNode macro;
};

}  // namespace tandem::text::jinja
