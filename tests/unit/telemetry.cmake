fulgur_test(telemetry_test SOURCES telemetry/metrics_test.cpp DEPENDS fulgur::telemetry)
