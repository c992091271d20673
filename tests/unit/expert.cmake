fulgur_test(expert_test SOURCES expert/expert_layer_test.cpp DEPENDS fulgur::expert)
