"""Read and write the files of Calico's datasets: targets.txt, sequences.bed, statistics.json, TFRecords."""
