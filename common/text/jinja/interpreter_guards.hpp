// Scoped changes of an Interpreter's stacks; private to the interpreter's own sources.
#pragma once

#include <algorithm>

#include "common/text/jinja/interpreter.hpp"

namespace fulgur::text::jinja {

/// A scope for the variables of a block or, with `captured`, of a macro call.
class Interpreter::FrameGuard {
 public:
  explicit FrameGuard(Interpreter& interpreter) : interpreter_(interpreter) {
    interpreter_.frames_.emplace_back();
  }
  FrameGuard(Interpreter& interpreter, const Variables& captured) : interpreter_(interpreter) {
    interpreter_.frames_.push_back({captured, true});
  }
  ~FrameGuard() { interpreter_.frames_.pop_back(); }
  FrameGuard(const FrameGuard&) = delete;
  FrameGuard& operator=(const FrameGuard&) = delete;

 private:
  Interpreter& interpreter_;
};

/// Counts nested nodes, so that the machine's stack is never the limit.
class Interpreter::DepthGuard {
 public:
  explicit DepthGuard(Interpreter& interpreter) : interpreter_(interpreter) {
    if (++interpreter_.depth_ > interpreter_.limits_.depth) {
      --interpreter_.depth_;
      throw TemplateError("calls nest too deep", Code::resource_exhausted);
    }
  }
  ~DepthGuard() { --interpreter_.depth_; }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;

 private:
  Interpreter& interpreter_;
};

}  // namespace fulgur::text::jinja
