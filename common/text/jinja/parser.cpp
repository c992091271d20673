// Statements; expressions are in expression_parser.cpp.
#include "common/text/jinja/parser.hpp"

#include "common/text/jinja/expression_parser.hpp"

namespace fulgur::text::jinja {
namespace {

using Type = Token::Type;

class Parser : private ExpressionParser {
 public:
  explicit Parser(std::vector<Token> tokens) : ExpressionParser(std::move(tokens)) {}

  Block run() {
    try {
      Block block = parse_block({});
      if (current().type != Type::end) fail("unexpected {}", current().text);
      return block;
    } catch (TemplateError& fault) {
      fault.locate(current().at);
      throw;
    }
  }

 private:
  /// Statements up to a block tag whose word is in `ends` (left unread) or the end of source.
  Block parse_block(const std::vector<std::string_view>& ends) {
    const Nesting nesting(*this);
    const Token opened = current();
    Block block;
    while (current().type != Type::end) {
      const Token& token = current();
      if (token.type == Type::data) {
        block.push_back({token.at, Data{token.text}});
        advance();
      } else if (token.type == Type::print_begin) {
        const Location at = token.at;
        advance();
        block.push_back({at, Print{parse_tuple()}});
        expect(Type::print_end, "}}");
      } else {
        const std::string_view word = peek(1).text;
        for (const std::string_view end : ends) {
          if (peek(1).type == Type::name && word == end) return block;
        }
        block.push_back(parse_statement());
      }
    }
    if (ends.empty()) return block;
    TemplateError fault(fmt::format("block is not closed, {} is missing", ends.back()));
    fault.locate(opened.at);
    throw fault;
  }

  /// Reads `{% word %}`.
  void expect_end(std::string_view word) {
    expect(Type::block_begin, "{%");
    expect_name(word);
    expect(Type::block_end, "%}");
  }

  Block parse_body(std::string_view end) {
    expect(Type::block_end, "%}");
    Block body = parse_block({end});
    expect_end(end);
    return body;
  }

  Statement parse_statement() {
    expect(Type::block_begin, "{%");
    const Location at = current().at;
    const std::string word = current().type == Type::name ? current().text : "";
    if (word.empty()) fail("a block tag must start with a name");
    advance();
    if (word == "if") return {at, parse_if()};
    if (word == "for") return {at, parse_for()};
    if (word == "set") return {at, parse_set()};
    if (word == "macro") return {at, parse_macro()};
    if (word == "call") return {at, parse_call_block()};
    if (word == "filter") return {at, parse_filter_block()};
    if (word == "with") return {at, parse_with()};
    if (word == "generation") return {at, Generation{parse_body("endgeneration")}};
    if (word == "break" || word == "continue") return parse_jump(at, word == "break");
    TemplateError fault(fmt::format("statement {} is not supported here", word));
    fault.locate(at);
    throw fault;
  }

  Statement parse_jump(Location at, bool is_break) {
    if (loops_ == 0) fail("{} outside of a loop", is_break ? "break" : "continue");
    expect(Type::block_end, "%}");
    if (is_break) return {at, Break{}};
    return {at, Continue{}};
  }

  If parse_if() {
    If statement;
    ExpressionPtr condition = parse_tuple();
    while (true) {
      expect(Type::block_end, "%}");
      const bool is_else = condition == nullptr;
      Block body = is_else ? parse_block({"endif"}) : parse_block({"elif", "else", "endif"});
      statement.branches.emplace_back(std::move(condition), std::move(body));
      expect(Type::block_begin, "{%");
      const std::string word = current().text;
      advance();
      if (word == "endif") break;
      condition = word == "elif" ? parse_tuple() : nullptr;
    }
    expect(Type::block_end, "%}");
    return statement;
  }

  For parse_for() {
    For statement;
    statement.target = parse_target();
    expect_name("in");
    statement.iterable = parse_tuple(false);
    if (accept_name("if")) statement.condition = parse_expression();
    statement.recursive = accept_name("recursive");
    expect(Type::block_end, "%}");
    ++loops_;
    statement.body = parse_block({"else", "endfor"});
    --loops_;
    expect(Type::block_begin, "{%");
    if (accept_name("else")) {
      expect(Type::block_end, "%}");
      statement.otherwise = parse_block({"endfor"});
      expect(Type::block_begin, "{%");
    }
    expect_name("endfor");
    expect(Type::block_end, "%}");
    return statement;
  }

  Target parse_target() {
    Target target;
    const bool parenthesis = accept_op("(");
    target.names.push_back(take_name());
    if (!parenthesis && accept_op(".")) {
      target.attribute = take_name();
      return target;
    }
    while (accept_op(",")) {
      target.unpack = true;
      if (current().type != Type::name || current().text == "in") break;
      target.names.push_back(take_name());
    }
    if (parenthesis) expect_op(")");
    return target;
  }

  std::vector<Filter> parse_filters() {
    std::vector<Filter> filters;
    while (accept_op("|")) filters.push_back(parse_filter(nullptr));
    return filters;
  }

  Set parse_set() {
    Set statement;
    statement.target = parse_target();
    if (accept_op("=")) {
      statement.value = parse_tuple();
      expect(Type::block_end, "%}");
    } else {
      statement.filters = parse_filters();
      statement.body = parse_body("endset");
    }
    return statement;
  }

  std::vector<Parameter> parse_parameters() {
    std::vector<Parameter> parameters;
    expect_op("(");
    while (!accept_op(")")) {
      if (!parameters.empty()) {
        expect_op(",");
        if (accept_op(")")) break;
      }
      Parameter parameter{take_name(), nullptr};
      if (accept_op("=")) parameter.fallback = parse_expression();
      parameters.push_back(std::move(parameter));
    }
    return parameters;
  }

  /// A body that break and continue cannot leave.
  Block parse_closed_body(std::string_view end) {
    const std::size_t loops = std::exchange(loops_, 0);
    Block body = parse_body(end);
    loops_ = loops;
    return body;
  }

  Macro parse_macro() {
    Macro macro;
    macro.name = take_name();
    macro.parameters = parse_parameters();
    macro.body = parse_closed_body("endmacro");
    return macro;
  }

  CallBlock parse_call_block() {
    CallBlock statement;
    statement.caller.name = "caller";
    if (is_op("(")) statement.caller.parameters = parse_parameters();
    statement.call = parse_expression();
    if (!std::holds_alternative<Call>(statement.call->node)) fail("call needs a macro call");
    statement.caller.body = parse_closed_body("endcall");
    return statement;
  }

  FilterBlock parse_filter_block() {
    FilterBlock statement;
    statement.filters.push_back(parse_filter(nullptr));
    for (Filter& filter : parse_filters()) statement.filters.push_back(std::move(filter));
    statement.body = parse_body("endfilter");
    return statement;
  }

  With parse_with() {
    With statement;
    while (current().type != Type::block_end) {
      if (!statement.bindings.empty()) expect_op(",");
      Target target = parse_target();
      expect_op("=");
      statement.bindings.emplace_back(std::move(target), parse_expression());
    }
    statement.body = parse_body("endwith");
    return statement;
  }

  std::size_t loops_ = 0;  // loops around the current statement, within its macro
};

}  // namespace

Block parse_template(std::string_view source) { return Parser(tokenize(source)).run(); }

}  // namespace fulgur::text::jinja
