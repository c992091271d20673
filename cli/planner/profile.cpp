#include "cli/planner/profile.hpp"

#include <algorithm>

#include "common/base/assert.hpp"

namespace fulgur::planner {
namespace {

constexpr double kMicro = 1e-6;
constexpr double kGiga = 1e9;

/// Value at x on the line through a and b.
double on_line(const Point& a, const Point& b, double x) {
  return a.y + (b.y - a.y) * (x - a.x) / (b.x - a.x);
}

/// The two neighbours of x, which lies inside the curve.
std::pair<Point, Point> around(const Curve& curve, double x) {
  const auto after = std::upper_bound(curve.begin(), curve.end(), x,
                                      [](double at, const Point& point) { return at < point.x; });
  return {*(after - 1), *after};
}

}  // namespace

double seconds_per_byte(const Curve& gb_s_by_rows, double rows) {
  FULGUR_ASSERT(!gb_s_by_rows.empty(), "a profile's curve has points");
  const auto inverse = [](const Point& point) { return Point{point.x, 1 / (point.y * kGiga)}; };
  const Point first = inverse(gb_s_by_rows.front());
  const Point last = inverse(gb_s_by_rows.back());
  if (rows <= first.x) return first.y;
  if (rows >= last.x) return last.y * rows / last.x;
  const auto [a, b] = around(gb_s_by_rows, rows);
  return on_line(inverse(a), inverse(b), rows);
}

double seconds_of(const Curve& us_by_bytes, double bytes) {
  FULGUR_ASSERT(!us_by_bytes.empty(), "a profile's curve has points");
  const Point& first = us_by_bytes.front();
  const Point& last = us_by_bytes.back();
  if (bytes >= last.x) return last.y * bytes / last.x * kMicro;
  if (bytes >= first.x) {
    const auto [a, b] = around(us_by_bytes, bytes);
    return on_line(a, b, bytes) * kMicro;
  }
  const double least = us_by_bytes.size() < 2 ? 0 : on_line(first, us_by_bytes[1], 0);
  return on_line({0, std::clamp(least, 0.0, first.y)}, first, bytes) * kMicro;
}

}  // namespace fulgur::planner
