// Runs a parsed template. One Interpreter renders once; the template is shared and never changes.
// Steps, depth of calls and sizes are bounded, so no template runs away with the process.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "common/base/clock.hpp"
#include "common/text/jinja/ast.hpp"

namespace fulgur::text::jinja {

struct Limits {
  std::size_t steps = 5'000'000;        ///< nodes visited plus one for each 64 bytes of new text
  std::size_t depth = 1000;             ///< nodes within nodes, macro calls included
  std::size_t text_bytes = 32U << 20U;  ///< longest single string and longest output
};

class Interpreter {
 public:
  using Variables = std::vector<std::pair<std::string, Value>>;

  Interpreter(Limits limits, Nanoseconds wall_now) : limits_(limits), wall_now_(wall_now) {}

  /// Renders with `globals` as variables. Throws TemplateError.
  MarkedText render(const Block& block, Variables globals);

  /// For the library: pays for `bytes` of new text or `steps` of work.
  void charge(std::size_t steps);
  void charge_text(std::size_t bytes);
  void charge_value(const Value& value);
  Nanoseconds wall_now() const { return wall_now_; }
  /// Calls a value; fails when it is not callable.
  Value call(const Value& function, Arguments& arguments);

 private:
  enum class Flow { normal, leave_loop, next_iteration };
  struct Frame {
    Variables variables;
    bool is_macro = false;  ///< hides everything below but the globals
  };
  class FrameGuard;
  class DepthGuard;

  Flow execute(const Block& block);
  Flow execute(const Statement& statement);
  Flow run(const Data& data);
  Flow run(const Print& print);
  Flow run(const Set& set);
  Flow run(const For& loop);
  Flow run(const If& branches);
  Flow run(const Macro& macro);
  Flow run(const CallBlock& block);
  Flow run(const FilterBlock& block);
  Flow run(const With& with);
  Flow run(const Generation& generation) { return execute(generation.body); }
  Flow run(const Break&) { return Flow::leave_loop; }
  Flow run(const Continue&) { return Flow::next_iteration; }
  void loop_over(const For& loop, const Value& iterable, std::size_t depth);
  List filtered_items(const For& loop, const Value& iterable);

  Value evaluate(const Expression& expression);
  Value evaluate_optional(const ExpressionPtr& expression);
  Value eval(const Literal& literal) { return literal.value; }
  Value eval(const Name& name);
  Value eval(const ListDisplay& list);
  Value eval(const DictDisplay& dict);
  Value eval(const Member& member);
  Value eval(const Subscript& subscript);
  Value eval(const SliceOf& slice);
  Value eval(const Call& call);
  Value eval(const Filter& filter) { return apply(filter, evaluate(*filter.input)); }
  Value eval(const Test& test);
  Value eval(const Unary& unary);
  Value eval(const Binary& binary);
  Value eval(const Comparison& comparison);
  Value eval(const Conditional& conditional);
  Value eval_call(const Call& call, const Value* caller);
  Value eval_method(const Member& member, Arguments& arguments);
  Value apply(const Filter& filter, const Value& input);
  Value apply(const std::vector<Filter>& filters, Value input);
  Arguments evaluate_arguments(const std::vector<Argument>& arguments);

  Value make_macro(const Macro& macro);
  Value call_macro(const Macro& macro, const Variables& captured, Arguments& arguments);
  void bind_parameters(const Macro& macro, Arguments& arguments);
  Variables visible_locals() const;
  MarkedText capture(const Block& block);
  void write(const MarkedText& text);
  const Value* lookup(const std::string& name) const;
  void assign(const std::string& name, Value value);
  void assign(const Target& target, const Value& value);

  Limits limits_;
  Nanoseconds wall_now_;
  std::size_t steps_ = 0;
  std::size_t depth_ = 0;  // nodes being evaluated, for the sake of the machine stack
  std::vector<Frame> frames_;
  MarkedText* output_ = nullptr;
};

}  // namespace fulgur::text::jinja
