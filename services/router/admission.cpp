#include "services/router/admission.hpp"

#include <algorithm>

namespace fulgur::router {

Admission::Admission(std::size_t places_max)
    : places_max_(places_max), taken_(std::make_shared<std::atomic<std::size_t>>(0)) {}

Admission::Ticket::~Ticket() {
  if (taken_) taken_->fetch_sub(places_);
}

std::optional<Admission::Ticket> Admission::enter(std::size_t places) {
  std::size_t taken = taken_->load();
  do {
    if (places > places_max_ - std::min(taken, places_max_)) return {};
  } while (!taken_->compare_exchange_weak(taken, taken + places));
  return Ticket(taken_, places);
}

}  // namespace fulgur::router
