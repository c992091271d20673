// A plan as text for people and as JSON for machines.
#pragma once

#include <string>

#include "cli/planner/plan.hpp"

namespace fulgur::planner {

/// `alternatives`: how many plans beside the best one.
std::string to_text(const Request& request, const Outcome& outcome, std::size_t alternatives);
std::string to_json(const Request& request, const Outcome& outcome, std::size_t alternatives);

}  // namespace fulgur::planner
